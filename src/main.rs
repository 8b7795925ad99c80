//! The command line.

/// An idle WebSocket takes half of what it takes with the system's allocator (5.0 against 9.8 KiB, `benches/hub`), and a
/// publish 15 % less processor time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    aether::cli::main()
}
