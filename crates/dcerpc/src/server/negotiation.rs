//! Presentation contexts: which interface in which form, by the client's number ([MS-RPCE] 3.3.1.5.3,
//! 3.3.1.5.6).

use crate::limits;
use crate::ndr::NdrSyntax;
use crate::pdu::{ContextElement, ContextResult, Features, ResultReason, SyntaxId};

/// One accepted presentation context.
#[derive(Clone, Copy, Debug)]
pub(super) struct PresentationContext {
    pub(super) id: u16,
    /// Index into the server's interfaces.
    pub(super) interface: usize,
    pub(super) syntax: NdrSyntax,
    /// The minor version that the client asked for, which its verification trailer repeats.
    minor: u16,
}

/// The accepted presentation contexts of an association.
#[derive(Debug, Default)]
pub(super) struct PresentationContexts {
    accepted: Vec<PresentationContext>,
}

/// A number was used again for another interface or form, or features were offered twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conflict;

/// The features that a bind offers, by an element whose first transfer syntax says so; at most one may.
pub(super) fn offered_features(elements: &[ContextElement]) -> Result<Features, Conflict> {
    let mut offers = elements.iter().filter_map(features);
    let offered = offers.next().unwrap_or(Features(0));
    match offers.next() {
        None => Ok(offered),
        Some(_) => Err(Conflict),
    }
}

fn features(element: &ContextElement) -> Option<Features> {
    element.transfer_syntaxes.first()?.bind_time_features()
}

impl PresentationContexts {
    pub(super) fn find(&self, id: u16) -> Option<&PresentationContext> {
        self.accepted.iter().find(|context| context.id == id)
    }

    /// Bytes of memory.
    pub(super) const fn capacity(&self) -> usize {
        self.accepted.capacity() * size_of::<PresentationContext>()
    }

    /// The interface as the client named it.
    pub(super) fn requested(&self, id: u16, interfaces: &[SyntaxId]) -> SyntaxId {
        self.find(id).map_or(SyntaxId::NIL, |context| SyntaxId {
            minor: context.minor,
            ..interfaces[context.interface]
        })
    }

    /// Answers each proposed context. `features` are those agreed in a bind; an alter_context has none.
    pub(super) fn negotiate(
        &mut self,
        elements: &[ContextElement],
        interfaces: &[SyntaxId],
        features_agreed: Option<Features>,
    ) -> Result<Vec<ContextResult>, Conflict> {
        // An interface is accepted once in a PDU, in its first form that we speak.
        let mut accepted: Vec<&SyntaxId> = Vec::new();
        elements
            .iter()
            .map(|element| {
                if let (Some(agreed), Some(_)) = (features_agreed, features(element)) {
                    return Ok(rejected(ResultReason::negotiate_ack(agreed.0 as u16)));
                }
                if accepted.contains(&&element.abstract_syntax) {
                    return Ok(rejected(ResultReason::TRANSFER_SYNTAXES_NOT_SUPPORTED));
                }
                let result = self.propose(element, elements, interfaces)?;
                if result.result == ResultReason::ACCEPTANCE {
                    accepted.push(&element.abstract_syntax);
                }
                Ok(result)
            })
            .collect()
    }

    fn propose(
        &mut self,
        element: &ContextElement,
        elements: &[ContextElement],
        interfaces: &[SyntaxId],
    ) -> Result<ContextResult, Conflict> {
        let wanted = &element.abstract_syntax;
        let offers = |element: &ContextElement, syntax| {
            element.transfer_syntaxes.iter().take(limits::TRANSFER_SYNTAXES_MAX).any(|s| *s == syntax)
        };
        if let Some(known) = self.find(element.id) {
            // It is proposed again as what it is, and in its form alone: Windows refuses a choice of forms,
            // by Samba's tests. A proposal in no form that we speak changes nothing.
            let forms = (offers(element, SyntaxId::NDR), offers(element, SyntaxId::NDR64));
            let known_form = match known.syntax {
                NdrSyntax::Ndr => (true, false),
                NdrSyntax::Ndr64 => (false, true),
            };
            return match interfaces[known.interface].serves(wanted) {
                true if forms == known_form => {
                    let transfer_syntax = known.syntax.into();
                    Ok(ContextResult { result: ResultReason::ACCEPTANCE, transfer_syntax })
                }
                true if forms == (false, false) => {
                    Ok(rejected(ResultReason::TRANSFER_SYNTAXES_NOT_SUPPORTED))
                }
                _ => Err(Conflict),
            };
        }
        let Some(interface) = interfaces.iter().position(|interface| interface.serves(wanted)) else {
            return Ok(rejected(ResultReason::ABSTRACT_SYNTAX_NOT_SUPPORTED));
        };
        // NDR is what every peer's tools read best, so NDR64 is taken only from a client that offers nothing
        // else.
        let syntax = match (offers(element, SyntaxId::NDR), offers(element, SyntaxId::NDR64)) {
            (true, _) => NdrSyntax::Ndr,
            (false, true)
                if !elements.iter().any(|e| e.abstract_syntax == *wanted && offers(e, SyntaxId::NDR)) =>
            {
                NdrSyntax::Ndr64
            }
            _ => return Ok(rejected(ResultReason::TRANSFER_SYNTAXES_NOT_SUPPORTED)),
        };
        if self.accepted.len() >= limits::PRESENTATION_CONTEXTS_MAX {
            return Ok(rejected(ResultReason::LOCAL_LIMIT_EXCEEDED));
        }
        let minor = wanted.minor;
        self.accepted.push(PresentationContext { id: element.id, interface, syntax, minor });
        Ok(ContextResult { result: ResultReason::ACCEPTANCE, transfer_syntax: syntax.into() })
    }
}

const fn rejected(result: ResultReason) -> ContextResult {
    ContextResult { result, transfer_syntax: SyntaxId::NIL }
}
