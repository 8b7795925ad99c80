//! What plugins count and measure.

use super::*;

fn count(code: &str) -> (Arc<Host>, Dir) {
    script(&format!("{code}\naether.on.publish('a', function(s, ch, msg) act(msg:text()) return true end)"))
}

fn act(host: &Host, text: &str) {
    publish(host, &nobody(), "a", text).unwrap();
}

#[test]
fn metrics_are_counted_by_all_threads_together_and_stand_on_the_page() {
    let (host, _dir) = count(
        "local taken = aether.metrics.counter('taken', { help = 'Taken\\nhere', labels = { 'shop' } })
         local level = aether.metrics.gauge('level')
         local waits = aether.metrics.histogram('waits', { buckets = { 0.5, 2 } })
         function act(text)
            taken:inc() taken:inc(2, { shop = text })
            level:set(7) level:inc(-2.5)
            waits:observe(0.5) waits:observe(9)
         end",
    );
    act(&host, "a \"b\"");
    std::thread::scope(|scope| scope.spawn(|| act(&host, "c")).join().unwrap());
    host.reload().unwrap();
    act(&host, "c");
    let page = host.metrics();
    assert_eq!(
        page,
        "# HELP aether_plugin_rules_level \n# TYPE aether_plugin_rules_level gauge\naether_plugin_rules_level 4.5\n\
         # HELP aether_plugin_rules_taken Taken\\nhere\n# TYPE aether_plugin_rules_taken counter\n\
         aether_plugin_rules_taken{shop=\"\"} 3\naether_plugin_rules_taken{shop=\"a \\\"b\\\"\"} 2\n\
         aether_plugin_rules_taken{shop=\"c\"} 4\n\
         # HELP aether_plugin_rules_waits \n# TYPE aether_plugin_rules_waits histogram\n\
         aether_plugin_rules_waits_bucket{le=\"0.5\"} 3\naether_plugin_rules_waits_bucket{le=\"2\"} 3\n\
         aether_plugin_rules_waits_bucket{le=\"+Inf\"} 6\n\
         aether_plugin_rules_waits_sum 28.5\naether_plugin_rules_waits_count 6\n"
    );
}

#[test]
fn what_has_too_many_series_is_counted_as_other() {
    let (host, _dir) = count(
        "local seen = aether.metrics.counter('seen', { labels = { 'user' } })
         function act(text) for n = 1, 130 do seen:inc(1, { user = text .. n }) end end",
    );
    act(&host, "u");
    assert!(host.metrics().contains("aether_plugin_rules_seen{user=\"other\"} 30\n"), "{}", host.metrics());
    assert_eq!((host.metrics().lines().count(), host.metrics_folded()), (103, 30));
}

#[test]
fn what_is_no_metric_is_an_error_with_its_place() {
    for (code, wrong) in [
        (
            "aether.metrics.counter('x') aether.metrics.gauge('x')",
            "rules.lua:1: metrics.gauge: aether_plugin_rules_x is a counter with no labels already",
        ),
        ("aether.metrics.counter('X')", "metrics.counter: name: \"X\" is not made of a-z, 0-9 and _"),
        ("aether.metrics.counter('x', { label = {} })", "label is not known here; did you mean labels?"),
        ("aether.metrics.counter('x', { buckets = { 1 } })", "buckets is not known here"),
        ("aether.metrics.histogram('x', { buckets = { 2, 1 } })", "buckets: expected up to 30 growing numbers"),
        ("aether.metrics.histogram('x', { labels = { 'le' } })", "none of them le"),
        ("aether.metrics.counter('x'):inc(-1)", "inc: a counter only grows, got -1"),
        ("aether.metrics.counter('x'):set(1)", "set: a counter has no set"),
        (
            "aether.metrics.counter('x', { labels = { 'shop' } }):inc(1, { shp = 'a' })",
            "shp is no label of this metric; did you mean shop?",
        ),
    ] {
        let told = complaints(code).join("\n");
        assert!(told.contains(wrong), "{code}: {told}");
    }
    let (host, _dir) = count("function act() aether.metrics.counter('late') end");
    let log = logged(|| drop(publish(&host, &nobody(), "a", "1")));
    assert!(log.contains("metrics are made while the file loads"), "{log}");
}
