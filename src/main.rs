//! The command line.

fn main() -> std::process::ExitCode {
    aether::cli::main()
}
