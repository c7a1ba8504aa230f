//! Serves the handler without `rcmpd`: a store in memory, a question, an answer.
//!
//! ```text
//! cargo run -p rcmp-service --example map_certificate
//! ```
//!
//! The policy is the default one: the chain of the certificate is verified, and names alone map no account.
//! So the account stores what binds the certificate to it, the name of the issuing CA and the serial number.

use account_store::{Account, AccountAdmin, Change, Domain, Group, GroupScope, MemoryStore, Put};
use dtyp::{FileTime, NtStatus, Sid};
use pac::VerifiedPac;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rcmp_service::certificate::{Certificate, OwnedCertificate};
use rcmp_service::message::{MappingFlags, Request, Response};
use rcmp_service::trust::{Parts, Trust};
use rcmp_service::{Answer, Asker, MapCertificate, Mapper, MapperParts, Policy, Question};
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tower::Service;

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600;

fn main() -> Result<(), Box<dyn Error>> {
    let domain = Domain {
        netbios: "CONTOSO".into(),
        dns: "contoso.example".into(),
        sid: "S-1-5-21-3623811015-3361044348-30300820".parse()?,
    };
    let sid = |rid| domain.sid.with_rid(rid).ok_or("the SID is too long");
    let (ca, leaf) = certificates()?;

    // The accounts.
    let certificate = Certificate::parse(&leaf)?;
    let serial = dtyp::hex(&certificate.serial.iter().rev().copied().collect::<Vec<_>>());
    let mut alice = Account::new("alice", sid(1013)?);
    alice.user_principal_name = Some("alice@contoso.example".into());
    alice.alt_security_identities = vec![format!("X509:<I>{}<SR>{serial}", certificate.issuer_name()?)];
    let users = Group { name: "Domain Users".into(), sid: sid(513)?, scope: GroupScope::Global };
    let store = MemoryStore::new(domain.clone());
    let changes = [Change::PutGroup(Put::New, users), Change::PutAccount(Put::New, Box::new(alice))];
    ready(store.apply(&mut changes.into_iter().map(Ok)))?;

    // The handler: a tower service. It has no forwarder, because there are no other domains.
    let trust = Trust::new(Parts { anchors: vec![ca], ..Parts::default() })?;
    let mapper = Mapper::new(MapperParts {
        policy: Policy::default(),
        trust: Some(Arc::new(trust)),
        responder: None,
        store: Arc::new(store),
        server: "DC1".into(),
    })?;
    let mut handler = MapCertificate::new(Arc::new(mapper), None);

    // A question of the protocol, as a machine asks it over a secure channel, and its answer: a message with
    // a PAC.
    let web = Arc::new(Asker::machine("WEB01$", sid(1100)?, true));
    let (flags, now) = (MappingFlags::UPN.with(MappingFlags::SUBJECT), FileTime::from_unix(NOW));
    let request = Request { flags, certificate: &leaf, issuers: vec![certificate.issuer] };
    let message = request.encode().ok_or("the certificate is too long")?;
    let answer = ask(&mut handler, Question::new(message, Arc::clone(&web), now));
    assert_eq!(answer.status, NtStatus::SUCCESS);
    let message = answer.message.ok_or("an account has a message")?;
    let response = Response::decode(&message)?;
    let account: Sid = VerifiedPac::decode(response.auth_data)?.user_sid;
    println!("the message names {account} of {}", response.domain);
    assert_eq!(account, sid(1013)?);

    // The same question of a program that has the certificate: no message is read or written.
    let certificate = OwnedCertificate::parse(leaf.clone().into())?;
    let answer = ask(&mut handler, Question::about(certificate, Vec::new(), flags, web, now));
    let mapped = answer.mapped.ok_or("alice is known")?;
    println!("{} by {}: {}", mapped.record.account.name, mapped.method, mapped.strength.name());
    assert_eq!((mapped.record.account.name.as_str(), mapped.strength.name()), ("alice", "strong"));
    assert!(answer.message.is_none());
    Ok(())
}

fn ask(handler: &mut MapCertificate, question: Question) -> Answer {
    let Ok(answer) = ready(handler.call(question));
    answer
}

/// A certificate of a CA, and one that the CA issued to alice.
fn certificates() -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "Contoso CA");
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?.der().to_vec();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Alice");
    let upn = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
    params.subject_alt_names = vec![SanType::OtherName((upn, "alice@contoso.example".into()))];
    let leaf = params.signed_by(&KeyPair::generate()?, &issuer)?.der().to_vec();
    Ok((ca, leaf))
}

/// The value of a future that waits for nothing: the store is in memory.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_maps_its_certificate() {
        super::main().expect("it works");
    }
}
