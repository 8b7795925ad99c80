//! Where clients and disks say that they stand: cursors of event streams, epochs, and the store's blocks.

#![no_main]

use aether::edges::cursor::{self, Cursor};
use aether::kernel::message::{ChannelName, Epoch, Position};
use aether::stores::block;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(publications) = block::unpack(bytes.to_vec().into()) {
        let again = block::unpack(block::pack(&publications).into());
        assert_eq!(again.as_ref(), Ok(&publications), "a block is not what it was");
    }
    let _ = block::newest_time(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let name = ChannelName::new("room.1").expect("a name");
    if let Some(cursor) = Cursor::parse(text.lines().next().unwrap_or_default())
        && let Some(at) = cursor.position(&name)
    {
        assert_eq!(read_back(&name, at), Some(at), "a cursor is not what it was");
    }
    for word in text.split_whitespace().take(4) {
        if let Ok(epoch) = word.parse::<Epoch>() {
            assert_eq!(epoch.to_string().parse(), Ok(epoch));
        }
    }
});

/// The place that a cursor of it names. Seven bytes of an epoch and nine of an offset are kept.
fn read_back(name: &ChannelName, at: Position) -> Option<Position> {
    let mut text = Vec::new();
    cursor::write(std::iter::once((name, at)), &mut text);
    Cursor::parse(std::str::from_utf8(&text).ok()?)?.position(name)
}
