//! What travels beside a question: whatever is read is within its limits, and says the same when it is
//! written.

use dtyp::{Decode, Encode};
use rcmp_service::CallContext;
use rcmp_service::context::{CONTEXT_LEN_MAX, HOPS_MAX, TRACE_STATE_LEN_MAX};

/// Reads `bytes` as a context.
pub fn check(bytes: &[u8]) {
    let Ok(context) = CallContext::from_bytes("CallContext", bytes) else { return };
    assert!(bytes.len() <= CONTEXT_LEN_MAX);
    assert!(context.hops.len() <= HOPS_MAX && context.trace_state.len() <= TRACE_STATE_LEN_MAX);
    let written = context.to_bytes();
    assert!(written.len() <= bytes.len(), "nothing is made up");
    assert_eq!(CallContext::from_bytes("CallContext", &written), Ok(context));
}
