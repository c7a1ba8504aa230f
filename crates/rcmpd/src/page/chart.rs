//! The decisions of the last hour as stacked bars, with the numbers in a table.

use super::html::Html;
use super::{list, member};
use serde_json::Value;

/// Bars of the chart, one a minute.
const BARS: u64 = 60;
/// Its height in units; each bar is 10 units wide.
const HEIGHT: u64 = 200;

/// The outcomes, from the bottom of a bar to its top: their names, the opening tags of their parts of a bar
/// and of their tiles.
const OUTCOMES: [(&str, &str, &str); 3] = [
    ("mapped", "<rect class=\"k-mapped\" x=\"", "<div><dt><span class=\"key mapped\"></span>Mapped</dt>"),
    (
        "rejected",
        "<rect class=\"k-rejected\" x=\"",
        "<div><dt><span class=\"key rejected\"></span>Rejected</dt>",
    ),
    (
        "undecided",
        "<rect class=\"k-undecided\" x=\"",
        "<div><dt><span class=\"key undecided\"></span>Undecided</dt>",
    ),
];

/// The card with tiles, chart and table.
pub(super) fn decisions(html: &mut Html, hour: &Value) {
    let minutes = list(hour, "minutes");
    let sum = |outcome: &str| minutes.iter().map(|minute| minute[outcome].as_u64().unwrap_or(0)).sum::<u64>();
    let sums = OUTCOMES.map(|(outcome, ..)| sum(outcome));
    let total: u64 = sums.iter().sum();
    html.raw("<header><h2 id=\"decisions-title\">Decisions in the last hour</h2></header>\n<dl class=\"tiles\"><div><dt>All</dt><dd>")
        .number(total)
        .raw("</dd></div>");
    for ((.., tile), sum) in OUTCOMES.iter().zip(sums) {
        html.raw(tile).raw("<dd>").number(sum).raw("</dd></div>");
    }
    html.raw("</dl>\n");
    bars(html, minutes, sums);
    table(html, minutes);
}

fn bars(html: &mut Html, minutes: &[Value], [mapped, rejected, undecided]: [u64; 3]) {
    let height =
        |minute: &Value| OUTCOMES.iter().map(|(name, ..)| minute[*name].as_u64().unwrap_or(0)).sum::<u64>();
    let peak = minutes.iter().map(height).max().unwrap_or(0);
    html.raw("<div class=\"chart\"><svg viewBox=\"0 0 600 200\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Decisions by minute: ")
        .number(mapped)
        .raw(" mapped, ")
        .number(rejected)
        .raw(" rejected, ")
        .number(undecided)
        .raw(" undecided; at most ")
        .number(peak)
        .raw(" in a minute\">")
        .raw("<path class=\"rule\" d=\"M0 1H600M0 67H600M0 133H600\"/>");
    // The newest is at the right edge.
    let first = BARS.saturating_sub(minutes.len() as u64);
    for (column, minute) in (first..BARS).zip(minutes) {
        let mut drawn = 0;
        for (name, rect, _) in OUTCOMES {
            let count = minute[name].as_u64().unwrap_or(0);
            let top = scaled(drawn + count, peak);
            let bottom = scaled(drawn, peak);
            drawn += count;
            // One event among thousands is seen, too.
            let (top, bottom) =
                if count > 0 && top < bottom + 2 { (bottom + 2, bottom) } else { (top, bottom) };
            if count > 0 {
                html.raw(rect).number(column * 10 + 1).raw("\" y=\"").number(HEIGHT.saturating_sub(top));
                html.raw("\" width=\"8\" height=\"").number(top - bottom).raw("\"/>");
            }
        }
    }
    html.raw("</svg><span class=\"peak\">").number(peak).raw(" a minute</span></div>\n");
    html.raw("<div class=\"axis\" aria-hidden=\"true\"><span>60 minutes ago</span><span>30</span><span>now</span></div>\n");
}

/// A count as a height, where the peak is as high as the chart.
fn scaled(count: u64, peak: u64) -> u64 {
    let scaled = u128::from(count) * u128::from(HEIGHT) / u128::from(peak.max(1));
    u64::try_from(scaled).unwrap_or(HEIGHT)
}

fn table(html: &mut Html, minutes: &[Value]) {
    html.raw("<details><summary>The numbers as a table</summary>\n<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Decisions by minute\">")
        .raw("<table><thead><tr><th scope=\"col\">Minute that ends</th><th scope=\"col\" class=\"num\">Mapped</th>")
        .raw("<th scope=\"col\" class=\"num\">Rejected</th><th scope=\"col\" class=\"num\">Undecided</th></tr></thead><tbody>\n");
    for minute in minutes.iter().rev() {
        html.raw("<tr><th scope=\"row\" class=\"nowrap\">").time(&member(minute, "ends")).raw("</th>");
        for (name, ..) in OUTCOMES {
            html.raw("<td class=\"num\">").number(minute[name].as_u64().unwrap_or(0)).raw("</td>");
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div></details>\n");
}

/// The card with the reasons of the last hour, the most frequent first.
pub(super) fn reasons(html: &mut Html, hour: &Value) {
    html.raw("<header><h2 id=\"reasons-title\">Reasons</h2><p>of the last hour</p></header>\n");
    let reasons = list(hour, "reasons");
    let most = reasons.iter().filter_map(|reason| reason["count"].as_u64()).max().unwrap_or(0);
    if reasons.is_empty() {
        html.raw("<p class=\"none\">No question was asked.</p>\n");
        return;
    }
    html.raw("<table class=\"bars\"><thead><tr><th scope=\"col\">Reason</th><th scope=\"col\" class=\"num\">Answers</th>")
        .raw("<th scope=\"col\"><span class=\"unseen\">Part</span></th></tr></thead><tbody>\n");
    for reason in reasons {
        let count = reason["count"].as_u64().unwrap_or(0);
        let class = match reason["outcome"].as_str() {
            Some("mapped") => "k-mapped",
            Some("undecided") => "k-undecided",
            _ => "k-rejected",
        };
        html.within("<tr><th scope=\"row\" class=\"mono break\">", &member(reason, "reason"), "</th><td class=\"num\">")
            .number(count)
            .raw("</td><td><svg class=\"bar\" viewBox=\"0 0 200 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"")
            .raw(class)
            .raw("\" height=\"8\" width=\"")
            .number(scaled(count, most).max(3))
            .raw("\"/></svg></td></tr>\n");
    }
    html.raw("</tbody></table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bars_stay_inside_the_chart() {
        let minute = |mapped: u64, rejected: u64, undecided: u64| json!({ "ends": "", "mapped": mapped, "rejected": rejected, "undecided": undecided });
        let minutes = [minute(u64::MAX / 4, 1, 1), minute(0, 0, 0), minute(1, 0, 0)];
        let mut html = Html::default();
        bars(&mut html, &minutes, [0; 3]);
        let drawn = html.finish();
        let number = |rect: &str, name: &str| -> u64 {
            let (_, rest) = rect.split_once(&format!(" {name}=\"")).expect("it is there");
            rest.split('"').next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let rects: Vec<_> = drawn.split("<rect").skip(1).collect();
        assert_eq!(rects.len(), 4);
        for rect in rects {
            assert!(number(rect, "y") + number(rect, "height") <= HEIGHT + 2, "{rect}");
            assert!(number(rect, "height") >= 2 && number(rect, "x") < 600, "{rect}");
        }
        assert!(drawn.contains("x=\"591\""), "{drawn}");
    }
}
