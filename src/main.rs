//! The binary: picks the allocator and hands over to the command line.

use std::process::ExitCode;

/// Its heaps are per thread, as everything else here is per core.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    s3_orchestrator::cli::main()
}
