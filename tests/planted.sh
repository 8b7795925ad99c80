#!/usr/bin/env bash
# Plants a bug of each class into a copy of the kernel and expects tests/simulation and tests/model.rs to find it, or one of
# them where only one can. Two minutes for each and what compiling takes; not part of the gate.
#   tests/planted.sh          all of them
#   tests/planted.sh hole     those whose name begins so
set -euo pipefail
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -C "$root" ls-files -z | (cd "$root" && xargs -0 cp --parents -t "$copy")
export CARGO_TARGET_DIR="${PLANTED_TARGET:-$root/target/planted}"

# name | file | what stands there | what is planted
bugs() { cat <<'BUGS'
order: a group is shown backwards|src/kernel/lane.rs|in std::mem::take(&mut self.unsettled) {|in std::mem::take(&mut self.unsettled).into_iter().rev() {
hole: what has left the store is not announced|src/kernel/turn.rs|self.announce_hole(slot, upto + 1, &page, batch);|self.subscriptions[slot as usize].reached = upto;
hole: a resume from before the oldest one says nothing|src/kernel/subscription.rs|return (first - 1, Some(Gap::between(after, first, GapCause::Evicted)));|return (first - 1, None);
hole: the rest of a half-written publication is dropped|src/kernel/turn.rs|carry.extend_from_slice(&batch.bytes[written..step.end]);|
duplicate: a half-written publication is sent again|src/kernel/turn.rs|carry.extend_from_slice(&batch.bytes[written..step.end]);|{ carry.extend_from_slice(&batch.bytes[written..step.end]); break; }
duplicate: a repeat of a key is a message|src/stores/sled/group.rs|if let Some((offset, time)) = self.known_key(&key, entry.time)? {|if let Some((offset, time)) = self.known_key(&key, u64::MAX)? {
safe: what is not settled is shown|src/kernel/lane.rs|if waits_for == Ack::Memory {|if waits_for != Ack::Written {
lost wake-up: the herald leaves the last one out|src/kernel/herald.rs|for (reader, head) in readers.drain(..) {|for (reader, head) in readers.drain(..).skip(1) {
lost wake-up: the flag stays up|src/kernel/channel.rs|self.ringing.store(false, Ordering::Relaxed);|self.ringing.store(true, Ordering::Relaxed);
lost wake-up: what was not taken is not queued again|src/kernel/turn.rs|if has_more && subscription.seat.reader.claim() {|if has_more && whole && subscription.seat.reader.claim() {
number: a restart begins anew|src/stores/sled.rs|open.last = head.last.max(stored);|open.last = head.last;
BUGS
}

# Before anything is compiled: the places move.
while IFS='|' read -r name file from _; do
    count=$(grep -cF -- "$from" "$root/$file" || true)
    [ "$count" = 1 ] || { echo "$name: $file has $count lines with: $from"; exit 1; }
done < <(bugs)

found=0 missed=0
while IFS='|' read -r name file from to; do
    [[ $name == "${1:-}"* ]] || continue
    # The original of the copy: whoever works at the root meanwhile may go on.
    cp "$copy/$file" "$copy/original"
    FROM=$from TO=$to perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{TO}/ or die "not there: $ENV{FROM}\n"' "$copy/$file"
    (cd "$copy" && cargo test --quiet --test main --no-run) || { echo "does not compile: $name"; exit 1; }
    by=""
    for test in simulation::whatever model::; do
        # The first failure is enough: making it smaller would wait for a lost wake-up again and again.
        if ! (cd "$copy" && AETHER_SIM_SECONDS=30 AETHER_MODEL_CASES=400 AETHER_MODEL_SHRINK=0 timeout 300 \
            cargo test --quiet --test main -- "$test") >"$copy/said" 2>&1 </dev/null; then
            said=$(grep -m1 -oaE '^seed [0-9]+: .*|Test failed: [^;]*' "$copy/said" || echo "does not end")
            by+=" | ${test%%::*}: $(cut -c1-140 <<<"$said")"
        fi
    done
    if [ -n "$by" ]; then
        echo "found  $name$by"; found=$((found + 1))
    else
        echo "MISSED $name"; missed=$((missed + 1))
    fi
    cp "$copy/original" "$copy/$file"
done < <(bugs)
echo "$found passed, $missed failed"
[ "$missed" = 0 ]
