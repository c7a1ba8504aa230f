//! Why a certificate is mapped or refused, as a tree.

use super::html::Html;
use super::{Service, Tab, begin, end};
use rcmp_service::Method;
use rcmp_service::explain::{
    Asked, BindingChecked, CertificateFacts, ChainState, Explanation, Found, MethodState, MethodTried, Remedy,
};
use rcmp_service::trace::EvidenceState;

/// How a step went.
#[derive(Clone, Copy)]
enum Went {
    Well,
    Badly,
    Unused,
}

/// The page with the form, and above it an explanation, or what was wrong with what was sent.
pub(crate) fn explained(service: Service<'_>, result: Option<Result<&Explanation, &str>>) -> String {
    let mut html = Html::default();
    begin(&mut html, "Explain a certificate – rcmpd", service, Tab::Explain);
    html.raw("<div class=\"head\"><h1>Explain a certificate</h1></div>\n");
    match result {
        Some(Ok(explanation)) => tree(&mut html, explanation),
        Some(Err(problem)) => {
            html.within("<p class=\"problem\" role=\"alert\">", problem, "</p>\n");
        }
        None => {}
    }
    form(&mut html, matches!(result, Some(Ok(_))));
    end(html)
}

fn form(html: &mut Html, is_again: bool) {
    html.raw("<section class=\"card\" aria-labelledby=\"form-title\"><header><h2 id=\"form-title\">")
        .raw(if is_again { "Explain another one" } else { "Which account does it map, and why?" })
        .raw("</h2></header>\n<form method=\"post\" action=\"/ui/explain\">\n<label for=\"certificate\">Certificate, and its chain if there is one (PEM)</label>\n")
        .raw("<textarea id=\"certificate\" name=\"certificate\" required spellcheck=\"false\" autocomplete=\"off\" ")
        .raw("aria-describedby=\"form-note\" placeholder=\"-----BEGIN CERTIFICATE-----\"></textarea>\n")
        .raw("<p class=\"note\" id=\"form-note\">Nothing is changed, and nothing is written to the audit log. No other domain is asked. ")
        .raw("<span id=\"drop-note\" hidden>A file can be dropped on the field.</span></p>\n")
        .raw("<p class=\"problem\" id=\"trouble\" role=\"alert\" hidden></p>\n")
        .raw("<div class=\"actions\"><button class=\"button\" type=\"submit\">Explain</button>")
        .raw("<button class=\"button plain\" type=\"button\" id=\"choose\" hidden>Choose a file…</button>")
        .raw("<input type=\"file\" id=\"chooser\" hidden aria-label=\"File with a certificate\" accept=\".pem,.crt,.cer,.der\"></div>\n</form></section>\n");
}

fn tree(html: &mut Html, explanation: &Explanation) {
    verdict(html, explanation);
    html.raw("<section class=\"card\" aria-labelledby=\"tree-title\"><header><h2 id=\"tree-title\">How it was decided</h2></header>\n<ol class=\"tree\">\n");
    match &explanation.certificate {
        Some(facts) => certificate(html, facts),
        None => step(html, Went::Badly, "Certificate", "cannot be read", |_| {}),
    }
    chain(html, explanation);
    policy(html, explanation);
    for method in &explanation.methods {
        method_tried(html, method);
    }
    if let Some(weighed) = &explanation.weighed {
        binding(html, weighed);
    }
    let went = if explanation.account.is_some() { Went::Well } else { Went::Badly };
    step(html, went, "Decision", explanation.text, |html| {
        html.raw("<dl class=\"facts\"><dt>Reason</dt><dd class=\"mono\">")
            .text(explanation.reason.name())
            .raw("</dd>");
        if let Some(status) = &explanation.status {
            html.within(
                "<dt>Client gets</dt><dd class=\"mono\">",
                status.name.unwrap_or(&status.value),
                "</dd>",
            );
        }
        if let Some(event) = explanation.event_id {
            html.raw("<dt>Event of Windows</dt><dd>").number(u64::from(event)).raw("</dd>");
        }
        html.raw("</dl>");
    });
    html.raw("</ol></section>\n");
    near_miss(html, explanation);
    remedies(html, &explanation.remedies);
}

/// The decision in a sentence.
fn verdict(html: &mut Html, explanation: &Explanation) {
    if let Some(routed) = &explanation.routed {
        html.raw("<section class=\"verdict warn\" role=\"status\"><h2>Another domain decides: ")
            .text(&routed.domain);
        html.raw("</h2><p>It is found by ")
            .text(routed.by.name())
            .raw(", and asked through ")
            .text(&routed.peer);
        html.raw(". No server was asked now.</p></section>\n");
        return;
    }
    match (&explanation.account, &explanation.sid) {
        (Some(account), Some(sid)) => {
            html.within("<section class=\"verdict good\" role=\"status\"><h2>Mapped: ", account, "</h2><p>");
            html.within("<span class=\"mono\">", sid, "</span>");
            if let Some(strength) = explanation.strength {
                html.raw(" – ").text(strength.name()).raw(" mapping");
            }
            if let Some(age) = explanation.stale_s {
                html.raw(". The facts are ").text(&age.to_string());
                html.raw(" s old, because the store could not be asked");
            }
            if let Some(group) = &explanation.privileged_by {
                html.raw(". Privileged: only machines whose scope names ").text(group).raw(" are answered");
            }
        }
        _ => {
            html.within(
                "<section class=\"verdict warn\" role=\"status\"><h2>Not mapped</h2><p>",
                explanation.text,
                "",
            );
        }
    }
    html.raw("</p></section>\n");
}

fn step(html: &mut Html, went: Went, title: &'static str, state: &str, content: impl FnOnce(&mut Html)) {
    html.raw(match went {
        Went::Well => "<li><svg class=\"dot good\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle cx=\"10\" cy=\"10\" r=\"10\"/><path d=\"M6 10.5l3 3 5.5-6.5\"/></svg>",
        Went::Badly => "<li><svg class=\"dot warn\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle cx=\"10\" cy=\"10\" r=\"10\"/><path d=\"M7 7l6 6M13 7l-6 6\"/></svg>",
        Went::Unused => "<li><svg class=\"dot\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle cx=\"10\" cy=\"10\" r=\"10\"/><path d=\"M6.5 10h7\"/></svg>",
    });
    html.raw("<strong>").raw(title).raw("</strong>");
    if !state.is_empty() {
        html.within(" <span class=\"state\">", state, "</span>");
    }
    content(html);
    html.raw("</li>\n");
}

fn certificate(html: &mut Html, facts: &CertificateFacts) {
    let went =
        if facts.unreadable.is_empty() && facts.beyond_limit.is_empty() { Went::Well } else { Went::Badly };
    step(html, went, "Certificate", "", |html| {
        html.raw("<dl class=\"facts\">");
        let valid = format!("{} to {}", facts.not_before, facts.not_after);
        for (name, value) in [
            ("Subject", &facts.subject),
            ("Issuer", &facts.issuer),
            ("Serial number", &facts.serial),
            ("Thumbprint", &facts.thumbprint),
            ("Valid", &valid),
        ] {
            html.raw("<dt>").raw(name).within("</dt><dd>", value, "</dd>");
        }
        for (kind, name) in &facts.names {
            html.within("<dt>", kind, "</dt>").within("<dd>", name, "</dd>");
        }
        for sid in &facts.sids {
            html.within("<dt>SID</dt><dd class=\"mono\">", sid, "</dd>");
        }
        for what in &facts.unreadable {
            html.within("<dt>Unreadable</dt><dd>", what, "</dd>");
        }
        for what in &facts.beyond_limit {
            html.within("<dt>Limit</dt><dd>", what, "</dd>");
        }
        for uri in &facts.misspelled_sids {
            html.within("<dt>No SID</dt><dd>", uri, " looks like a SID and is written otherwise</dd>");
        }
        html.raw("</dl>");
    });
}

fn chain(html: &mut Html, explanation: &Explanation) {
    let chain = &explanation.chain;
    let went = match chain.state {
        ChainState::Verified => Went::Well,
        ChainState::NotReached | ChainState::NotVerified => Went::Unused,
        ChainState::Rejected(_) => Went::Badly,
    };
    let text = if matches!(chain.state, ChainState::Verified) { "verified" } else { &chain.text };
    step(html, went, "Chain", text, |html| {
        html.raw("<ul class=\"branch\">");
        for authority in &chain.authorities {
            html.within("<li>by ", &authority.subject, "");
            html.raw(if authority.has_rules {
                " <span class=\"tag\">rules of its own</span></li>"
            } else {
                "</li>"
            });
        }
        if let Some(revocation) = &chain.revocation {
            html.within("<li>revocation: ", revocation, "</li>");
        }
        html.raw("</ul>");
    });
}

fn policy(html: &mut Html, explanation: &Explanation) {
    let policy = &explanation.policy;
    step(html, Went::Unused, "Policy", "", |html| {
        let methods = policy.methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
        html.within("<dl class=\"facts\"><dt>Methods</dt><dd>", &methods, "</dd>")
            .within("<dt>Binding</dt><dd>", policy.binding.name(), "</dd>")
            .within("<dt>Validation</dt><dd>", policy.validation.name(), "</dd><dt>Revision</dt><dd>")
            .number(policy.revision)
            .raw("</dd></dl>");
    });
}

fn method_tried(html: &mut Html, method: &MethodTried) {
    let (went, state) = match method.state {
        MethodState::Tried if method.asked.iter().any(|asked| asked.found == Found::One) => (Went::Well, ""),
        MethodState::Tried => (Went::Badly, "found no account"),
        MethodState::NotAskedFor => (Went::Unused, "not asked for"),
        MethodState::NotAllowed => (Went::Unused, "not allowed by the policy"),
        MethodState::NotApplicable => (Went::Unused, method.why.map_or("", |why| why.text())),
        MethodState::NotReached => (Went::Unused, "not reached"),
    };
    let title = match method.method {
        Method::Upn => "Method upn",
        Method::Subject => "Method subject",
        Method::Issuer => "Method issuer",
    };
    step(html, went, title, state, |html| {
        if !method.asked.is_empty() {
            html.raw("<ul class=\"branch\">");
            method.asked.iter().for_each(|asked| question(html, asked));
            html.raw("</ul>");
        }
    });
}

fn question(html: &mut Html, asked: &Asked) {
    html.within("<li>", asked.form.title(), "");
    html.raw(if asked.strong {
        " <span class=\"tag set\">strong</span>"
    } else {
        " <span class=\"tag\">weak</span>"
    });
    html.within("<span class=\"sub-line mono\">", asked.attribute, " = ").text(&asked.value).raw("</span>→ ");
    let accounts = asked.accounts.join(", ");
    match asked.found {
        Found::Error => html.raw("the store could not answer"),
        Found::None => html.raw("no account"),
        Found::Many => html.raw("more than one: ").text(&accounts),
        Found::Differs => html.text(&accounts).raw(", whose value is not the same by this comparison"),
        Found::One => html.text(&accounts),
    };
    if !asked.granted {
        html.raw(" (this form is not granted to the CA)");
    }
    if !asked.stores.is_empty() {
        html.within("<span class=\"sub-line\">asked: [[store.part]] ", &asked.stores.join(", "), "</span>");
    }
    if let Some(compared) = &asked.compared {
        html.within("<span class=\"sub-line\">[store.compare]: ", compared, "</span>");
    }
    html.raw("</li>");
}

fn binding(html: &mut Html, weighed: &BindingChecked) {
    let went = if weighed.strong_by.is_some() { Went::Well } else { Went::Badly };
    let state = match weighed.strong_by {
        Some(form) => format!("strong, by {}", form.title()),
        None => "weak".to_owned(),
    };
    step(html, went, "Strong-mapping enforcement", &state, |html| {
        html.within("<p>", &weighed.account, " (<span class=\"mono\">")
            .text(&weighed.sid)
            .raw("</span>), made ");
        html.text(&weighed.created).raw("</p><ul class=\"branch\">");
        for (form, state) in &weighed.evidence {
            let says = match state {
                EvidenceState::Counts => "binds the certificate to it",
                EvidenceState::NotGranted => "would bind it, but the CA is not granted this form",
                EvidenceState::Contradicts => "names another account, or cannot be read",
                EvidenceState::StrongByPolicy => "is strong by a policy of the certificate",
            };
            html.within("<li>", form.title(), ": ").raw(says).raw("</li>");
        }
        html.raw("</ul>");
    });
}

fn near_miss(html: &mut Html, explanation: &Explanation) {
    let Some(miss) = &explanation.nearest else { return };
    html.raw("<section class=\"card\" aria-labelledby=\"miss-title\"><header><h2 id=\"miss-title\">Nearest miss</h2></header>\n<dl class=\"facts\"><dt>Account</dt><dd>")
        .text(&miss.account)
        .within("</dd><dt>Attribute</dt><dd class=\"mono\">", miss.attribute, "</dd>")
        .within("<dt>Asked</dt><dd class=\"mono\">", &miss.asked, "</dd>")
        .within("<dt>Stored</dt><dd class=\"mono\">", &miss.stored, "</dd><dt>They differ</dt><dd>from byte ")
        .number(miss.differs_at as u64)
        .raw(" on</dd></dl>");
    if let Some(because) = &miss.because {
        html.within("<p class=\"note\">", because, "</p>");
    }
    html.raw("</section>\n");
}

fn remedies(html: &mut Html, remedies: &[Remedy]) {
    if remedies.is_empty() {
        return;
    }
    html.raw("<section class=\"card\" aria-labelledby=\"remedy-title\"><header><h2 id=\"remedy-title\">What would change that</h2></header>\n<ul class=\"branch\">");
    for remedy in remedies {
        html.within("<li>", &remedy.what, "");
        let blocks = [
            ("", &remedy.command),
            ("The mapping as LDIF:", &remedy.ldif),
            ("The mapping in PowerShell:", &remedy.powershell),
        ];
        for (title, block) in blocks {
            if let Some(block) = block {
                html.raw(title).raw("<pre tabindex=\"0\">").lines(block).raw("</pre>");
            }
        }
        html.raw("</li>");
    }
    html.raw("</ul></section>\n");
}
