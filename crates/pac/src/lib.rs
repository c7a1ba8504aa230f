//! The privilege attribute certificate of [MS-PAC]: reader and writer.
