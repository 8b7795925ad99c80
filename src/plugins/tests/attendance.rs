//! Join and leave hooks: who came, who left, and who was only away for a moment.

use super::*;
use crate::plugins::told::crowd::BATCH;

/// What the hooks have told so far, as `+a:ann,bob` and `-a:ann`.
fn told(host: &Host) -> Vec<String> {
    let seen = publish(host, &nobody(), "told", "1").unwrap_err().why;
    seen.split_whitespace().map(str::to_owned).collect()
}

const TOLD: &str = "
    local seen = aether.shared('seen')
    local function note(sign)
        return function(ch, sessions)
            local names = {}
            for _, s in sessions do table.insert(names, s.user or 'nobody') end
            local text = (seen:get('text') or '') .. sign .. ch.name .. ':' .. table.concat(names, ',') .. ' '
            seen:set('text', text)
        end
    end
    aether.on.join('mark.*', function(ch) seen:set('mark', ch.name) end)
    aether.on.publish('marked', function() return aether.deny('marked', seen:get('mark') or '') end)
    aether.on.publish('told', function() return aether.deny('told', seen:get('text') or '') end)";

fn attended(code: &str) -> (Arc<Host>, Hand, Dir) {
    let clock = Hand::new();
    let (host, dir) = script_with(&format!("{TOLD}\n{code}"), clock.config());
    (host, clock, dir)
}

fn user(name: &str) -> Arc<Client> {
    Arc::new(client(Some(name), Grants::default()))
}

/// Waits until all that has happened was looked at: a mark went through the queue behind it. The clock stands still, for a
/// call comes at once when it is full, whatever the time.
fn look(host: &Host) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mark = name(&format!("mark.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    (0..BATCH).for_each(|_| host.joined(&user("mark"), &mark));
    until("the mark is told", || publish(host, &nobody(), "marked", "1").unwrap_err().why == mark.as_str());
}

/// Time passes, but not before what happened was looked at; what is due by then is told.
fn pass(host: &Host, clock: &Hand, seconds: u64) {
    look(host);
    clock.pass(seconds);
    // Who has been gone for long enough is gathered; those who are gathered are told.
    look(host);
    clock.pass(1);
    look(host);
}

#[test]
fn join_and_leave_hooks_are_told_in_batches_and_in_order() {
    let (host, clock, _dir) = attended("aether.on.join('room.{id}', note('+')) aether.on.leave('room.*', note('-'))");
    let (ann, bob) = (user("ann"), user("bob"));
    host.joined(&ann, &name("room.1"));
    host.joined(&bob, &name("room.1"));
    host.joined(&ann, &name("hall"));
    host.left(&ann, &name("room.1"));
    pass(&host, &clock, 1);
    assert_eq!(told(&host), ["+room.1:ann,bob", "-room.1:ann"]);
}

#[test]
fn a_hundred_sessions_are_told_at_once_and_the_next_one_later() {
    let code = "aether.on.join('a', function(ch, sessions) seen:push('sizes', #sessions) end)
         aether.on.publish('sizes', function() local one = seen:pop('sizes') return aether.deny('size', tostring(one)) end)";
    let (host, clock, _dir) = attended(code);
    (0..130).for_each(|_| host.joined(&user("ann"), &name("a")));
    let size = || publish(&host, &nobody(), "sizes", "1").unwrap_err().why.parse::<u32>().ok();
    look(&host);
    // The first call came because it was full, whatever the time.
    assert_eq!((size(), size()), (Some(100), None));
    pass(&host, &clock, 1);
    assert_eq!((size(), size()), (Some(30), None));
}

#[test]
fn who_is_back_in_time_neither_leaves_nor_joins_and_who_is_not_does() {
    let (host, clock, _dir) = attended(
        "aether.on.join('a', { debounce = '2m' }, note('+')) aether.on.leave('a', { debounce = '2m' }, note('-'))",
    );
    let (first, second) = (user("ann"), user("ann"));
    host.joined(&first, &name("a"));
    host.joined(&second, &name("a"));
    host.left(&first, &name("a"));
    host.left(&second, &name("a"));
    pass(&host, &clock, 30);
    host.joined(&user("ann"), &name("a"));
    pass(&host, &clock, 600);
    assert_eq!(told(&host), ["+a:ann"]);
    host.left(&second, &name("a"));
    pass(&host, &clock, 600);
    assert_eq!(told(&host), ["+a:ann", "-a:ann"]);
}

#[test]
fn who_is_away_while_the_rules_are_reloaded_is_still_told_to_leave() {
    let code =
        "aether.on.join('a', { debounce = '2m' }, note('+')) aether.on.leave('a', { debounce = '2m' }, note('-'))";
    let (host, clock, _dir) = attended(code);
    let (ann, bob) = (user("ann"), user("bob"));
    host.joined(&ann, &name("a"));
    host.joined(&bob, &name("a"));
    host.left(&ann, &name("a"));
    host.reload().unwrap();
    host.left(&bob, &name("a"));
    host.joined(&bob, &name("a"));
    pass(&host, &clock, 600);
    assert_eq!(told(&host), ["+a:ann,bob", "-a:ann"]);
}

#[test]
fn a_reload_that_finds_the_old_thread_before_its_work_ends_and_nobody_is_forgotten() {
    let (clock, dir) = (Hand::new(), Dir::new());
    dir.write("rules.lua", format!("{TOLD}\naether.on.join('a', note('+'))"));
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..clock.config() }).unwrap();
    let taken = host.commons.attendance.taken();
    host.begin().unwrap();
    host.joined(&user("ann"), &name("a"));
    let (told_of, end) = std::sync::mpsc::channel();
    let reloading = host.clone();
    std::thread::spawn(move || told_of.send(reloading.reload().map(drop)));
    end.recv_timeout(DEADLINE).expect("the reload waits for a thread that waits for its work").unwrap();
    drop(taken);
    pass(&host, &clock, 1);
    assert_eq!(told(&host), ["+a:ann"]);
}

#[test]
fn options_that_mean_nothing_are_told() {
    assert_eq!(
        complaints("aether.on.join('a', { debonce = 1 }, function() end)"),
        ["rules.lua:1: on.join: debonce is not known here; did you mean debounce?"]
    );
    assert_eq!(
        complaints("aether.on.leave('a', { debounce = 'long' }, function() end)"),
        [
            "rules.lua:1: on.leave: debounce: expected a duration like \"2s\", of at most an hour, got the string \"long\""
        ]
    );
    assert_eq!(
        complaints("aether.on.publish('a', { debounce = '2s' }, function() end)"),
        ["rules.lua:1: on.publish: debounce is not known here"]
    );
}

#[test]
fn what_a_hook_answers_that_is_only_told_is_ignored() {
    let code = "aether.on.join('a', function() return 7 end)
        aether.on.leave('a', function() return { 'x' } end)";
    let (host, clock, _dir) = attended(code);
    let ann = user("ann");
    host.joined(&ann, &name("a"));
    host.left(&ann, &name("a"));
    pass(&host, &clock, 1);
    assert_eq!(host.counters().errors.load(Ordering::Relaxed), 0);
}
