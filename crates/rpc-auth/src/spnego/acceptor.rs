use super::SpnegoMechanism;
use super::message::{NegState, NegTokenInit, NegTokenResp, Oid};
use crate::{Acceptor, BoxFuture, Leg, MechanismContext, Refusal, RefusalReason, Step};

/// Octets of an object identifier in the log: it comes from a client that has proved nothing. That of NTLM
/// has 10.
const OID_LEN_LOGGED: usize = 32;

/// The acceptor of one context.
pub struct SpnegoAcceptor {
    mechanisms: Vec<(SpnegoMechanism, Box<dyn Acceptor>)>,
}

impl SpnegoAcceptor {
    /// An acceptor that speaks these mechanisms. Which one is used is the initiator's choice: the first of
    /// its list that is among them.
    pub fn new(mechanisms: Vec<(SpnegoMechanism, Box<dyn Acceptor>)>) -> Self {
        Self { mechanisms }
    }

    async fn first(self: Box<Self>, leg: Leg<'_>) -> Result<Step, Refusal> {
        let init = NegTokenInit::read(leg.token).map_err(Refusal::malformed)?;
        if init.mic.is_some() {
            return Err(Refusal::new(RefusalReason::ListMic, "a MIC before the mechanism is complete"));
        }
        let chosen = init.mechanisms.iter().enumerate().find_map(|(at, oid)| {
            let wanted = SpnegoMechanism::of(oid)?;
            let ours = self.mechanisms.iter().position(|(mechanism, _)| *mechanism == wanted)?;
            Some((at, oid.clone(), ours))
        });
        let Some((at, oid, ours)) = chosen else {
            let offers: Vec<String> = init.mechanisms.iter().map(in_log).collect();
            let detail = format!("none of the mechanisms is spoken: {}", offers.join(" "));
            return Err(Refusal::new(RefusalReason::Mechanism, detail));
        };
        let mut mechanisms = self.mechanisms;
        let (_, acceptor) = mechanisms.swap_remove(ours);
        let mut chosen = Chosen { acceptor, list: init.list, mic_is_required: at != 0 };
        // The token belongs to the first mechanism of the list, whether or not it is spoken here.
        let mut response = NegTokenResp {
            state: Some(if at == 0 { NegState::Incomplete } else { NegState::RequestMic }),
            mechanism: Some(oid),
            ..NegTokenResp::default()
        };
        if at == 0 && !init.token.is_empty() {
            match chosen.acceptor.accept(leg.with_token(&init.token)).await? {
                Step::Continue { token, next } => {
                    response.token = Some(token);
                    chosen.acceptor = next;
                }
                // A mechanism of one token: its list was not signed, and cannot be any more.
                Step::Complete { .. } => {
                    return Err(Refusal::new(RefusalReason::Mechanism, "the mechanism has one token"));
                }
            }
        }
        Ok(Step::Continue { token: response.to_bytes(), next: Box::new(chosen) })
    }
}

impl Acceptor for SpnegoAcceptor {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(self.first(leg))
    }
}

/// An object identifier in hexadecimal, cut if it is long.
fn in_log(Oid(oid): &Oid) -> String {
    match oid.get(..OID_LEN_LOGGED) {
        Some(start) if start.len() < oid.len() => format!("{}...", dtyp::hex(start)),
        _ => dtyp::hex(oid),
    }
}

/// The acceptor once a mechanism is chosen.
struct Chosen {
    acceptor: Box<dyn Acceptor>,
    /// MechTypeList as it was received.
    list: Vec<u8>,
    /// The mechanism is not the initiator's first one: then a changed list has to show.
    mic_is_required: bool,
}

impl Chosen {
    async fn next(mut self: Box<Self>, leg: Leg<'_>) -> Result<Step, Refusal> {
        let response = NegTokenResp::read(leg.token).map_err(Refusal::malformed)?;
        if response.state == Some(NegState::Reject) {
            return Err(Refusal::new(RefusalReason::Mechanism, "the client rejects the mechanism"));
        }
        let token = response.token.unwrap_or_default();
        match self.acceptor.accept(leg.with_token(&token)).await? {
            Step::Continue { .. } if response.mic.is_some() => {
                Err(Refusal::new(RefusalReason::ListMic, "a MIC before the mechanism is complete"))
            }
            Step::Continue { token, next } => {
                self.acceptor = next;
                let answer = NegTokenResp {
                    state: Some(NegState::Incomplete),
                    token: Some(token),
                    ..NegTokenResp::default()
                };
                Ok(Step::Continue { token: answer.to_bytes(), next: self })
            }
            Step::Complete { token, mut context } => {
                let is_required = self.mic_is_required || context.wants_mech_list_mic();
                let mic = check_list(&mut *context, &self.list, response.mic.as_deref(), is_required)?;
                let answer = NegTokenResp {
                    state: Some(NegState::Completed),
                    mechanism: None,
                    token: (!token.is_empty()).then_some(token),
                    mic,
                };
                Ok(Step::Complete { token: answer.to_bytes(), context })
            }
        }
    }
}

impl Acceptor for Chosen {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(self.next(leg))
    }
}

/// Checks the initiator's signature of the list, and makes ours. A signature that came is answered always:
/// clients that send one wait for it.
fn check_list(
    context: &mut dyn MechanismContext,
    list: &[u8],
    mic: Option<&[u8]>,
    is_required: bool,
) -> Result<Option<Vec<u8>>, Refusal> {
    match mic {
        Some(mic) => {
            context.verify_mech_list(list, mic).map_err(|error| {
                Refusal::new(RefusalReason::ListMic, format!("the list's MIC does not verify ({error:?})"))
            })?;
            Ok(Some(context.sign_mech_list(list)))
        }
        None if is_required => Err(Refusal::new(RefusalReason::ListMic, "the list's MIC is missing")),
        None => Ok(None),
    }
}
