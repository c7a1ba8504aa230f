use super::SpnegoMechanism;
use super::message::{NegState, NegTokenInit, NegTokenResp, Oid, mech_list};
use crate::{Entropy, Initiator, InitiatorStep, MechanismContext, Refusal, RefusalReason};
use dtyp::FileTime;

/// The initiator of one context.
pub struct SpnegoInitiator {
    mechanisms: Vec<(SpnegoMechanism, Box<dyn Initiator>)>,
}

impl SpnegoInitiator {
    /// An initiator that offers these mechanisms, the preferred one first.
    pub fn new(mechanisms: Vec<(SpnegoMechanism, Box<dyn Initiator>)>) -> Self {
        Self { mechanisms }
    }
}

fn refuse<T>(reason: RefusalReason, detail: &str) -> Result<T, Refusal> {
    Err(Refusal::new(reason, detail))
}

impl Initiator for SpnegoInitiator {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        if token.is_some() {
            return refuse(RefusalReason::Token, "the server speaks first");
        }
        let offers = self.mechanisms.iter().flat_map(|(mechanism, _)| mechanism.oids());
        let offers: Vec<Oid> = offers.map(|oid| Oid(oid.to_vec())).collect();
        let mut mechanisms = self.mechanisms.into_iter();
        let Some((preferred, first)) = mechanisms.next() else {
            return refuse(RefusalReason::Mechanism, "no mechanism is offered");
        };
        let InitiatorStep::Continue { token, next } = first.step(None, now, entropy)? else {
            return refuse(RefusalReason::Mechanism, "the mechanism has one token");
        };
        let list = mech_list(&offers);
        let init = NegTokenInit::to_bytes(&list, &token);
        let next = Offered { preferred, first: next, others: mechanisms.collect(), list };
        Ok(InitiatorStep::Continue { token: init, next: Box::new(next) })
    }
}

/// The initiator that waits for the acceptor's choice.
struct Offered {
    preferred: SpnegoMechanism,
    /// The preferred mechanism after its first token.
    first: Box<dyn Initiator>,
    others: Vec<(SpnegoMechanism, Box<dyn Initiator>)>,
    list: Vec<u8>,
}

impl Initiator for Offered {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        let response = read(token)?;
        let Some(state) = response.state else {
            return refuse(RefusalReason::Token, "the server's first answer has no negState");
        };
        if response.mic.is_some() {
            return refuse(RefusalReason::ListMic, "a MIC before the mechanism is complete");
        }
        let chosen = match &response.mechanism {
            None => self.preferred,
            Some(oid) => match SpnegoMechanism::of(oid) {
                Some(mechanism) => mechanism,
                None => return refuse(RefusalReason::Mechanism, "the server chose what was not offered"),
            },
        };
        if !matches!(state, NegState::Incomplete | NegState::RequestMic) {
            return refuse(RefusalReason::Mechanism, "the server did not go on with the negotiation");
        }
        let running = Running {
            list: self.list,
            mic_is_required: state == NegState::RequestMic || chosen != self.preferred,
        };
        if chosen == self.preferred {
            return running.go_on(self.first, response.token.as_deref(), now, entropy);
        }
        let Some((_, other)) = self.others.into_iter().find(|(mechanism, _)| *mechanism == chosen) else {
            return refuse(RefusalReason::Mechanism, "the server chose what was not offered");
        };
        if response.token.is_some_and(|token| !token.is_empty()) {
            return refuse(RefusalReason::Token, "a token of a mechanism that has not begun");
        }
        running.go_on(other, None, now, entropy)
    }
}

fn read(token: Option<&[u8]>) -> Result<NegTokenResp, Refusal> {
    NegTokenResp::read(token.unwrap_or_default()).map_err(Refusal::malformed)
}

struct Running {
    list: Vec<u8>,
    mic_is_required: bool,
}

impl Running {
    /// Takes the mechanism one token further.
    fn go_on(
        self,
        mechanism: Box<dyn Initiator>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        Ok(match mechanism.step(token, now, entropy)? {
            InitiatorStep::Continue { token, next } => {
                let message = NegTokenResp { token: Some(token), ..NegTokenResp::default() };
                let next = Continued { running: self, mechanism: next };
                InitiatorStep::Continue { token: message.to_bytes(), next: Box::new(next) }
            }
            InitiatorStep::Complete { token, mut context } => {
                let signs = self.mic_is_required || context.wants_mech_list_mic();
                let message = NegTokenResp {
                    token: (!token.is_empty()).then_some(token),
                    mic: signs.then(|| context.sign_mech_list(&self.list)),
                    ..NegTokenResp::default()
                };
                let next = Closing { context, list: self.list, signed: signs };
                InitiatorStep::Continue { token: message.to_bytes(), next: Box::new(next) }
            }
        })
    }
}

/// The initiator in the middle of a mechanism.
struct Continued {
    running: Running,
    mechanism: Box<dyn Initiator>,
}

impl Initiator for Continued {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        let response = read(token)?;
        if response.mic.is_some() {
            return refuse(RefusalReason::ListMic, "a MIC before the mechanism is complete");
        }
        match response.state {
            None | Some(NegState::Incomplete) => {
                self.running.go_on(self.mechanism, response.token.as_deref(), now, entropy)
            }
            Some(_) => refuse(RefusalReason::Mechanism, "the server ended the negotiation too early"),
        }
    }
}

/// The initiator whose mechanism is complete: the acceptor's last word is missing.
struct Closing {
    context: Box<dyn MechanismContext>,
    list: Vec<u8>,
    signed: bool,
}

impl Initiator for Closing {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        _: FileTime,
        _: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        let response = read(token)?;
        if response.state != Some(NegState::Completed) {
            return refuse(RefusalReason::Mechanism, "the server did not complete the negotiation");
        }
        if response.token.is_some_and(|token| !token.is_empty()) {
            return refuse(RefusalReason::Token, "a token after the mechanism is complete");
        }
        let mut context = self.context;
        match response.mic {
            Some(mic) => context.verify_mech_list(&self.list, &mic).map_err(|error| {
                Refusal::new(RefusalReason::ListMic, format!("the list's MIC does not verify ({error:?})"))
            })?,
            None if self.signed => return refuse(RefusalReason::ListMic, "the list's MIC is missing"),
            None => {}
        }
        Ok(InitiatorStep::Complete { token: Vec::new(), context })
    }
}
