//! [MS-RCMP]: messages, certificate mapping, policy and the answer.
