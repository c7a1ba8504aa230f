//! What is exported by OTLP, where to and how: `[telemetry.otlp]`, and the environment variables of
//! OpenTelemetry's specification, which take its place.

use super::tls::NO_CA;
use crate::config::otlp::{PROTOCOLS, Protocol, Signal, endpoint_problem, is_https, sampler};
use crate::config::{Otlp, percent_decoded};
use anyhow::{Context, bail};
use opentelemetry_sdk::trace::Sampler;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The default of OTEL_EXPORTER_OTLP_TIMEOUT.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The default of OTEL_METRIC_EXPORT_INTERVAL.
const INTERVAL: Duration = Duration::from_secs(60);

/// Where a signal goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    /// The URL: with HTTP the whole path, with gRPC the server.
    pub endpoint: String,
    /// How.
    pub protocol: Protocol,
    /// Headers of each request. Their values may be secrets.
    pub headers: Vec<(String, String)>,
    /// The time of a request.
    pub timeout: Duration,
    /// Files with the CAs of a collector with `https://`.
    pub ca: Vec<PathBuf>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Destination")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &headers)
            .field("timeout", &self.timeout)
            .field("ca", &self.ca)
            .finish()
    }
}

/// What is exported.
#[derive(Debug)]
pub struct Settings {
    /// Where spans go.
    pub traces: Option<Destination>,
    /// Where metrics go.
    pub metrics: Option<Destination>,
    /// Where events go.
    pub logs: Option<Destination>,
    /// Attributes of the resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Which traces are sampled.
    pub sampler: Sampler,
    /// How often metrics are sent.
    pub interval: Duration,
}

impl Settings {
    /// Reads the configuration and the environment. Nothing is exported unless an endpoint is named, or an
    /// exporter is chosen by name.
    pub fn new(config: &Otlp, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_disabled =
            variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let destination = |signal: Signal| match is_disabled {
            true => Ok(None),
            false => destination(config, signal, &variable),
        };
        Ok(Self {
            traces: destination(Signal::Traces)?,
            metrics: destination(Signal::Metrics)?,
            logs: destination(Signal::Logs)?,
            resource: resource(config, &variable)?,
            sampler: sampler(
                variable("OTEL_TRACES_SAMPLER").as_deref().or(config.sampler.as_deref()),
                variable("OTEL_TRACES_SAMPLER_ARG").as_deref().or(config.sampler_arg.as_deref()),
            )?,
            interval: milliseconds(&variable, "OTEL_METRIC_EXPORT_INTERVAL")?
                .or(config.metrics_interval)
                .unwrap_or(INTERVAL),
        })
    }
}

impl Settings {
    /// Endpoints that get headers, which may be credentials, over a network without encryption.
    pub fn headers_in_clear(&self) -> Vec<String> {
        let destinations = [&self.traces, &self.metrics, &self.logs].into_iter().flatten();
        let in_clear = destinations.filter(|to| !to.headers.is_empty() && is_in_clear(&to.endpoint));
        let mut endpoints: Vec<_> = in_clear.map(|to| to.endpoint.clone()).collect();
        endpoints.dedup();
        endpoints
    }
}

/// Whether requests to this URL can be read on a network: it is not HTTPS, and not on this machine.
fn is_in_clear(endpoint: &str) -> bool {
    let uri = endpoint.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    !is_https(endpoint) && !is_here
}

fn destination(
    config: &Otlp,
    signal: Signal,
    variable: &impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Destination>> {
    let upper = signal.name().to_uppercase();
    let exporter = format!("OTEL_{upper}_EXPORTER");
    let is_chosen = match variable(&exporter).as_deref() {
        Some("none") => return Ok(None),
        Some("otlp") => true,
        Some(other) => bail!("{exporter} is {other:?}: use \"otlp\" or \"none\""),
        None if !config.signals.contains(&signal) => return Ok(None),
        None => false,
    };
    // Each variable may be there for one signal, and for all.
    let own = |name: &str| variable(&format!("OTEL_EXPORTER_OTLP_{upper}_{name}"));
    let general = |name: &str| variable(&format!("OTEL_EXPORTER_OTLP_{name}"));
    let named = |name: &str| {
        [format!("OTEL_EXPORTER_OTLP_{upper}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|name| variable(&name).map(|value| (name, value)))
    };
    let protocol = match named("PROTOCOL") {
        None => config.protocol.unwrap_or(Protocol::Grpc),
        Some((name, value)) => match PROTOCOLS.iter().find(|(known, _)| *known == value) {
            Some((_, protocol)) => *protocol,
            None => bail!("{name} is {value:?}: use \"grpc\" or \"http/protobuf\""),
        },
    };
    let default = match protocol {
        Protocol::Grpc => "http://localhost:4317",
        Protocol::Http => "http://localhost:4318",
    };
    let base = general("ENDPOINT").or_else(|| config.endpoint.clone());
    let base = base.or_else(|| is_chosen.then(|| default.to_owned()));
    let endpoint = match (own("ENDPOINT"), base, protocol) {
        (Some(endpoint), _, _) | (None, Some(endpoint), Protocol::Grpc) => endpoint,
        (None, Some(base), Protocol::Http) => {
            format!("{}/v1/{}", base.trim_end_matches('/'), signal.name())
        }
        (None, None, _) => return Ok(None),
    };
    if let Some(problem) = endpoint_problem(&endpoint) {
        bail!("the OTLP endpoint {endpoint:?} cannot be used: {problem}");
    }
    let headers = match named("HEADERS") {
        Some((name, text)) => pairs(&text).with_context(|| format!("{name} cannot be used"))?,
        None => match &config.headers {
            Some(secret) => {
                let text = secret.read().context("cannot use telemetry.otlp.headers")?;
                pairs(&text).context("telemetry.otlp.headers cannot be used")?
            }
            None => Vec::new(),
        },
    };
    let timeout = milliseconds(variable, &format!("OTEL_EXPORTER_OTLP_{upper}_TIMEOUT"))?;
    let timeout = match timeout {
        Some(timeout) => Some(timeout),
        None => milliseconds(variable, "OTEL_EXPORTER_OTLP_TIMEOUT")?,
    };
    let timeout = timeout.or(config.timeout).unwrap_or(TIMEOUT);
    let ca = named("CERTIFICATE").map_or_else(|| config.ca.clone(), |(_, path)| vec![path.into()]);
    if is_https(&endpoint) && ca.is_empty() {
        bail!("the OTLP endpoint {endpoint:?} cannot be used: {NO_CA}");
    }
    Ok(Some(Destination { endpoint, protocol, headers, timeout, ca }))
}

fn milliseconds(variable: &impl Fn(&str) -> Option<String>, name: &str) -> anyhow::Result<Option<Duration>> {
    let Some(text) = variable(name) else { return Ok(None) };
    let number = text.trim().parse::<u64>().ok().filter(|number| *number > 0);
    let number = number.with_context(|| format!("{name} is {text:?}: write milliseconds"))?;
    Ok(Some(Duration::from_millis(number)))
}

fn resource(
    config: &Otlp,
    variable: &impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut attributes = config.attributes.clone();
    if let Some(text) = variable("OTEL_RESOURCE_ATTRIBUTES") {
        attributes.extend(pairs(&text).context("OTEL_RESOURCE_ATTRIBUTES cannot be used")?);
    }
    let name = variable("OTEL_SERVICE_NAME").or_else(|| attributes.remove("service.name"));
    attributes.insert("service.name".to_owned(), name.unwrap_or_else(|| config.service_name.clone()));
    attributes.entry("service.version".to_owned()).or_insert_with(|| env!("CARGO_PKG_VERSION").to_owned());
    Ok(attributes.into_iter().collect())
}

/// `NAME=VALUE,…`, percent-encoded (W3C Baggage). Values may be secrets, so errors have none.
fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').context("write NAME=VALUE, separated by commas")?;
        let value = percent_decoded(value.trim()).context("a value is not percent-encoded UTF-8")?;
        Ok((name.trim().to_owned(), value))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(config: &Otlp, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        Settings::new(config, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn asked(variables: &[(&str, &str)]) -> Settings {
        settings(&Otlp::default(), variables).unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[test]
    fn the_standard_variables_say_what_is_exported() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        let exported = |variables: &[(&str, &str)]| {
            let settings = asked(variables);
            [settings.traces, settings.metrics, settings.logs].map(|signal| signal.is_some())
        };
        assert_eq!(exported(&[]), [false; 3]);
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), [false; 3]);
        assert_eq!(exported(&[endpoint]), [true; 3]);
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:1")]), [true, false, false]);
        assert_eq!(exported(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), [false; 3]);
        assert_eq!(exported(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), [false, true, true]);
        assert_eq!(exported(&[("OTEL_LOGS_EXPORTER", "otlp")]), [false, false, true]);
    }

    #[test]
    fn paths_of_http_are_those_of_the_specification() {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let settings = asked(&[
            http,
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a.example/otlp/"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b.example/own"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=y"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "500"),
        ]);
        let traces = settings.traces.expect("they are exported");
        assert_eq!(traces.endpoint, "http://a.example/otlp/v1/traces");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(traces.headers, [pair("api-key", "a b"), pair("x", "y")]);
        assert!(!format!("{traces:?}").contains("a b"));
        assert_eq!(settings.logs.expect("they are exported").endpoint, "http://b.example/own");
        assert_eq!(settings.metrics.expect("they are exported").timeout, Duration::from_millis(500));
    }

    #[test]
    fn headers_in_clear_are_found_unless_they_stay_on_this_machine() {
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a");
        let in_clear = |endpoint| {
            let settings = asked(&[
                headers,
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "a"),
            ]);
            settings.headers_in_clear()
        };
        for here in [
            "http://127.0.0.1:4317",
            "http://LOCALHOST:4317",
            "http://[::1]:1",
            "https://a.example",
            "HTTPS://a.example",
            "http://[::ffff:127.0.0.9]:1",
        ] {
            assert!(in_clear(here).is_empty(), "{here}");
        }
        for elsewhere in ["http://a.example:4317", "http://192.0.2.1", "http://localhost.example:1"] {
            assert_eq!(in_clear(elsewhere), [elsewhere]);
        }
        assert!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a.example")]).headers_in_clear().is_empty());
    }

    #[test]
    fn the_resource_names_the_service() {
        let name = |variables: &[(&str, &str)]| {
            let resource = asked(variables).resource;
            resource.into_iter().find(|(name, _)| name == "service.name").map(|(_, value)| value)
        };
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,host.name=b");
        assert_eq!(name(&[]).as_deref(), Some("rcmpd"));
        assert_eq!(name(&[attributes]).as_deref(), Some("a"));
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "c")]).as_deref(), Some("c"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.example"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "HTTPS://a.example"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "a.example:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@a.example"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
        ] {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
            assert!(settings(&Otlp::default(), &[wrong, endpoint]).is_err(), "{wrong:?}");
        }
        let half = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1.5")];
        assert!(settings(&Otlp::default(), &half).is_err());
    }
}
