//! Pictures of the results: bars with their values beside them, as SVG.

use std::fmt::Write;

use aether::cli::bench::report::thousands;

use super::results::Results;

const WIDTH: usize = 760;
const LABELS: usize = 150;
const VALUES: usize = 110;
const BAR: usize = 18;
const STEP: usize = 24;

/// A picture travels without its page.
const KEPT: &str = "Aether: history on disk, synced before the answer. nchan: in memory. NATS: nothing is kept.";
const FLOORS: &str = " Floors: sockets alone.";

/// Each with its name and title.
pub fn all(results: &Results) -> Vec<(&'static str, &'static str, String)> {
    let two_places = |value: f64| format!("{value:.2}");
    let pictures = [
        picture(
            results,
            "fan-out",
            "Deliveries a second (more is better)",
            &["fan-out-ws-1", "fan-out-ws-4", "fan-out-sse-1", "fan-out-sse-4", "many-channels"],
            &[("deliveries_per_s", "")],
            thousands,
        ),
        picture(
            results,
            "latency",
            "Milliseconds from the sending to the subscriber (less is better)",
            &["offered-200", "offered-50"],
            &[("p50_ms", "p50"), ("p99_ms", "p99")],
            two_places,
        ),
        picture(
            results,
            "publish",
            "Messages a second that publishers are answered for (more is better)",
            &["publish-1", "publish-8", "publish-64", "publish-batches"],
            &[("publishes_per_s", "")],
            thousands,
        ),
        picture(
            results,
            "memory",
            "KiB of memory for an idle subscriber (less is better)",
            &["idle-ws", "idle-sse"],
            &[("memory_kib_per_connection", "")],
            two_places,
        ),
    ];
    pictures.into_iter().flatten().collect()
}

struct Group {
    title: String,
    bars: Vec<(String, String, f64)>,
}

/// Nothing if nothing of it was measured.
fn picture(
    results: &Results,
    name: &'static str,
    title: &'static str,
    rows: &[&str],
    figures: &[(&str, &str)],
    show: fn(f64) -> String,
) -> Option<(&'static str, &'static str, String)> {
    let mut groups = Vec::new();
    for row in rows.iter().filter_map(|row| results.row(row)) {
        for (figure, suffix) in figures {
            let bars = row.cells.iter().filter_map(|cell| {
                let value = *cell.median.get(*figure)?;
                Some((cell.who.clone(), show(value), value))
            });
            let title = if suffix.is_empty() { row.title.clone() } else { format!("{}, {suffix}", row.title) };
            groups.push(Group { title, bars: bars.collect() });
        }
    }
    groups.retain(|group| !group.bars.is_empty());
    (!groups.is_empty()).then(|| (name, title, draw(title, &groups)))
}

fn draw(title: &str, groups: &[Group]) -> String {
    let most = groups.iter().flat_map(|group| &group.bars).map(|(.., value)| *value).fold(f64::EPSILON, f64::max);
    let room = (WIDTH - LABELS - VALUES) as f64;
    let has_floors = groups.iter().flat_map(|group| &group.bars).any(|(who, ..)| who.starts_with("floor"));
    let (floors, mut body) = (if has_floors { FLOORS } else { "" }, String::new());
    let mut y = 34;
    let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-size=\"17\" font-weight=\"bold\">{}</text>", escaped(title));
    y += 20;
    let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-size=\"12\" fill=\"#57606a\">{KEPT}{floors}</text>");
    for group in groups {
        y += 36;
        let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-weight=\"bold\">{}</text>", escaped(&group.title));
        y += 8;
        for (who, shown, value) in &group.bars {
            let (width, middle) = ((value / most * room).max(1.0), y + 14);
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{middle}\">{}</text>",
                LABELS - 8,
                escaped(who),
                colour(who),
                LABELS as f64 + width + 6.0,
                escaped(shown)
            );
            y += STEP;
        }
    }
    let height = y + 12;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1b1f24\" role=\"img\">\n<title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n",
        escaped(title)
    )
}

fn colour(who: &str) -> &'static str {
    match who {
        "aether" => "#1f6feb",
        "nchan" => "#d1793c",
        "NATS" => "#7d8590",
        _ => "#c9d1d9",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
