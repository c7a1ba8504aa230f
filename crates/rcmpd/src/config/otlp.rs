//! `[telemetry.otlp]`: what is exported to a collector of OpenTelemetry.

use super::{Checker, SecretRef};
use anyhow::bail;
use opentelemetry_sdk::trace::Sampler;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// One kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// The metrics of the admin port.
    Metrics,
    /// The events of the log.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Its name, as paths and configurations have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC, usually on port 4317.
    Grpc,
    /// OTLP/HTTP with protobuf, usually on port 4318.
    Http,
}

/// The words for protocols.
pub(crate) const PROTOCOLS: [(&str, Protocol); 2] =
    [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::Http)];

/// The words for samplers.
pub(crate) const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// `[telemetry.otlp]`. Environment variables of OpenTelemetry take the place of each value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The collector.
    pub endpoint: Option<String>,
    /// How it is spoken to.
    pub protocol: Option<Protocol>,
    /// Headers of each request, as OTEL_EXPORTER_OTLP_HEADERS has them.
    pub headers: Option<SecretRef>,
    /// The time of a request.
    pub timeout: Option<Duration>,
    /// Files with the CAs of a collector with `https://`.
    pub ca: Vec<PathBuf>,
    /// `service.name`.
    pub service_name: String,
    /// Other attributes of the resource.
    pub attributes: BTreeMap<String, String>,
    /// The sampler, by the names of OTEL_TRACES_SAMPLER.
    pub sampler: Option<String>,
    /// Its argument.
    pub sampler_arg: Option<String>,
    /// What is exported.
    pub signals: Vec<Signal>,
    /// How often metrics are sent.
    pub metrics_interval: Option<Duration>,
}

/// The default of `service_name`.
const SERVICE_NAME: &str = "rcmpd";
/// The default of `timeout_s`.
const TIMEOUT_S: u64 = 10;
/// The default of `metrics_interval_s`.
const INTERVAL_S: u64 = 60;
const SIGNALS: [(&str, Signal); 3] =
    [("traces", Signal::Traces), ("metrics", Signal::Metrics), ("logs", Signal::Logs)];

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: None,
            headers: None,
            timeout: None,
            ca: Vec::new(),
            service_name: SERVICE_NAME.to_owned(),
            attributes: BTreeMap::new(),
            sampler: None,
            sampler_arg: None,
            signals: Signal::ALL.to_vec(),
            metrics_interval: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    endpoint: Option<Spanned<String>>,
    protocol: Option<Spanned<String>>,
    headers: Option<Spanned<String>>,
    timeout_s: Option<Spanned<u64>>,
    #[serde(default)]
    ca: Vec<PathBuf>,
    service_name: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    sampler: Option<Spanned<String>>,
    sampler_arg: Option<Spanned<String>>,
    signals: Option<Spanned<Vec<Spanned<String>>>>,
    metrics_interval_s: Option<Spanned<u64>>,
}

impl Checker<'_> {
    pub(super) fn otlp(&mut self, section: &Section) -> Otlp {
        let endpoint = section.endpoint.as_ref();
        if let Some((span, problem)) =
            endpoint.and_then(|it| Some((it.span(), endpoint_problem(it.get_ref())?)))
        {
            self.problem(span, "this is not the URL of a collector", problem);
        }
        if let Some(endpoint) = endpoint.filter(|it| is_https(it.get_ref()) && section.ca.is_empty()) {
            let help = "set telemetry.otlp.ca; the CAs of the system are not used";
            self.problem(endpoint.span(), "https:// needs the CA of the collector", help);
        }
        let text = |given: &Option<Spanned<String>>| given.as_ref().map(|it| it.get_ref().clone());
        let (name, arg) = (text(&section.sampler), text(&section.sampler_arg));
        if let (Err(error), Some(at)) = (
            sampler(name.as_deref(), arg.as_deref()),
            section.sampler.as_ref().or(section.sampler_arg.as_ref()),
        ) {
            self.problem(at.span(), error.to_string(), format!("samplers are {}", SAMPLERS.join(", ")));
        }
        let help = "name \"traces\", \"metrics\" or \"logs\", or remove the key and the endpoint";
        let signals: Vec<_> = self.restricting("signals", &section.signals, help).to_vec();
        let signals: Vec<Signal> =
            signals.iter().filter_map(|signal| self.one_of(Some(signal), &SIGNALS, "signal")).collect();
        Otlp {
            endpoint: text(&section.endpoint),
            protocol: Some(
                self.one_of(section.protocol.as_ref(), &PROTOCOLS, "protocol").unwrap_or(Protocol::Grpc),
            ),
            headers: section.headers.as_ref().and_then(|headers| self.secret(headers)),
            ca: section.ca.iter().map(|path| self.path(path)).collect(),
            timeout: Some(self.seconds(section.timeout_s.as_ref(), 1..=60, TIMEOUT_S)),
            service_name: section.service_name.clone().unwrap_or_else(|| SERVICE_NAME.to_owned()),
            attributes: section.attributes.clone(),
            sampler: Some(name.unwrap_or_else(|| "parentbased_always_on".to_owned())),
            sampler_arg: arg,
            signals: if section.signals.is_some() { signals } else { Signal::ALL.to_vec() },
            metrics_interval: Some(self.seconds(section.metrics_interval_s.as_ref(), 1..=3600, INTERVAL_S)),
        }
    }
}

/// What is wrong with the URL of a collector.
pub(crate) fn endpoint_problem(endpoint: &str) -> Option<&'static str> {
    let uri = endpoint.parse::<http::Uri>().ok();
    match uri.as_ref().map(|uri| (uri.scheme_str(), uri.authority())) {
        Some((Some("http" | "https"), Some(authority))) if !authority.as_str().contains('@') => None,
        _ => Some("write it as in http://127.0.0.1:4317"),
    }
}

/// Whether the scheme of a URL is HTTPS, in any case.
pub(crate) fn is_https(endpoint: &str) -> bool {
    endpoint.parse::<http::Uri>().is_ok_and(|uri| uri.scheme() == Some(&http::uri::Scheme::HTTPS))
}

/// The sampler of this name. The default follows the caller, and samples traces that begin here.
pub(crate) fn sampler(name: Option<&str>, arg: Option<&str>) -> anyhow::Result<Sampler> {
    let ratio = || match arg.map(str::parse::<f64>) {
        None => Ok(1.0),
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Some(_) => {
            bail!("the argument of the sampler is {:?}: write a number from 0 to 1", arg.unwrap_or(""))
        }
    };
    let root = match name.map(|name| name.strip_prefix("parentbased_").unwrap_or(name)) {
        None | Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => Sampler::TraceIdRatioBased(ratio()?),
        Some(other) => bail!("the sampler {other:?} is not known: use {}", SAMPLERS.join(", ")),
    };
    Ok(match name.is_none_or(|name| name.starts_with("parentbased_")) {
        true => Sampler::ParentBased(Box::new(root)),
        false => root,
    })
}
