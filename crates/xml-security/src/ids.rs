//! Ids of a message: `wsu:Id`, and `Id` on elements of XML signature and XML encryption. Nothing else is one.

use crate::names::{ENCRYPTION, SIGNATURE, UTILITY};
use crate::reason::Reason;
use crate::tree::{Document, NodeId, is_ncname};
use std::collections::HashMap;

/// Whether it is a Name of XML. An id of XML schema has no colon, but Mono's WCF writes `urn:uuid:…` on a
/// UsernameToken. No reader takes such a name for a pointer of another form: those have parentheses.
fn is_name(id: &str) -> bool {
    is_ncname(&id.replace(':', "_"))
}

/// Elements by their ids, each id once.
#[derive(Debug)]
pub(crate) struct Ids(HashMap<String, NodeId>);

impl Ids {
    /// Finds all ids.
    ///
    /// Application data in `body` may use attributes such as `xml:id` or `z:Id` of its own. They are no ids
    /// here, and they are refused where a reader that takes them for one would see an id twice. Outside of
    /// `body` they are always refused.
    ///
    /// # Errors
    /// If an id stands twice or is no name, or an attribute in another namespace claims to be one.
    pub(crate) fn of(document: &Document, body: Option<NodeId>) -> Result<Self, Reason> {
        let mut ids = HashMap::new();
        let mut claims = Vec::new();
        for node in document.descendants(document.root()) {
            let is_security = document.is_of(node, SIGNATURE) || document.is_of(node, ENCRYPTION);
            let mut own = None;
            for (name, value) in document.attributes(node) {
                if !name.local.eq_ignore_ascii_case("id") {
                    continue;
                }
                let is_id = name.local == "Id"
                    && (name.namespace == UTILITY.uri || (name.namespace.is_empty() && is_security));
                if is_id {
                    if own.replace(value).is_some() || !is_name(value) {
                        return Err(Reason::Id);
                    }
                } else if !name.namespace.is_empty() || is_security {
                    let inside = body.is_some_and(|body| {
                        node != body && document.ancestors(node).any(|around| around == body)
                    });
                    if !inside {
                        return Err(Reason::Id);
                    }
                    claims.push(value);
                }
            }
            if let Some(id) = own
                && ids.insert(id.to_owned(), node).is_some()
            {
                return Err(Reason::Id);
            }
        }
        if claims.iter().any(|claim| ids.contains_key(*claim)) {
            return Err(Reason::Id);
        }
        Ok(Self(ids))
    }

    /// The element with an id.
    pub(crate) fn get(&self, id: &str) -> Option<NodeId> {
        self.0.get(id).copied()
    }

    /// The element that `#id` refers to; `None` for every other form of URI.
    pub(crate) fn refer(&self, uri: &str) -> Option<NodeId> {
        self.get(uri.strip_prefix('#')?)
    }
}
