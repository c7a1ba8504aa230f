//! `rcmpd top`: the running service on a terminal, drawn anew at each interval.

mod samples;
mod view;

use super::{admin_port, config_file, failed, load, status};
use crate::cli::TopArgs;
use crate::config::Config;
use crate::screen::Screen;
use anyhow::{Context, bail};
use http::{Method, StatusCode};
use samples::Scrape;
use serde_json::Value;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use view::View;

/// There is no terminal to draw on.
const NO_TERMINAL: u8 = 2;
/// Keys that end the view. The last one is Ctrl-C, which is no signal here.
const ENDS: [u8; 3] = [b'q', b'Q', 3];

pub(super) async fn run(args: &TopArgs) -> anyhow::Result<u8> {
    if !Screen::is_there() {
        let why = "top needs a terminal on standard input and output; elsewhere use rcmpd status, or rcmpd status --json";
        return Err(failed(NO_TERMINAL, why));
    }
    let config = load(&config_file(&args.config)?)?;
    // Before the terminal is taken, so that an error stays readable.
    let mut view = View::default();
    view.update(ask(&config).await?);
    show(&config, Duration::from_secs(args.interval), &mut view).await?;
    Ok(0)
}

/// What the service says at a moment.
struct Asked {
    status: Value,
    metrics: Scrape,
}

async fn ask(config: &Config) -> anyhow::Result<Asked> {
    let status = status::ask(config).await?;
    let (code, metrics) = admin_port::ask(config, Method::GET, "/metrics").await?;
    if code != StatusCode::OK {
        bail!("the service answers {code} to /metrics");
    }
    let metrics = std::str::from_utf8(&metrics).context("the metrics of the service are not UTF-8")?;
    Ok(Asked { status, metrics: Scrape::new(metrics, Instant::now()) })
}

/// Draws until a key or a signal ends the view.
async fn show(config: &Config, period: Duration, view: &mut View) -> anyhow::Result<()> {
    let signals = |kind| signal(kind).context("cannot wait for signals");
    let mut resized = signals(SignalKind::window_change())?;
    let (mut terminated, mut hung_up) = (signals(SignalKind::terminate())?, signals(SignalKind::hangup())?);
    let mut screen = Screen::open().context("cannot use the terminal")?;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once, and the service was asked just now.
    ticks.tick().await;
    loop {
        // Keys and signals do not begin a question anew.
        let mut next = pin!(async {
            ticks.tick().await;
            ask(config).await
        });
        let asked = loop {
            let size = Screen::size();
            screen.draw(&view.rows(size), size).context("cannot write to the terminal")?;
            tokio::select! {
                keys = screen.keys() => match keys {
                    Some(keys) if !keys.iter().any(|key| ENDS.contains(key)) => {}
                    _ => return Ok(()),
                },
                _ = resized.recv() => {}
                _ = terminated.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
                asked = &mut next => break asked,
            }
        };
        match asked {
            Ok(asked) => view.update(asked),
            Err(error) => view.failed(&error),
        }
    }
}
