//! Parses the command line, runs one command, turns its outcome into an exit code.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use results_projector::cli::{Cli, Command, ConfigCommand, DeadLetters, GlobalArgs, Outputs};
use results_projector::commands::{self, CommandError, Lines};
use results_projector::config::Config;
use results_projector::observe::logging;
use results_projector::wire::inert::inert;

/// For SQLite's memory too (the crate's feature `override`). The system's allocator gives memory back to the kernel and
/// asks for it again all the while, as messages are made on one thread and freed on another by the ten thousand.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os(), commands::version::long()) {
        Ok(cli) => cli,
        Err(error) => refuse(&error),
    };
    let config = if cli.command.needs_configuration() {
        Config::load(&cli.global, &|name| std::env::var(name).ok())
    } else {
        Config::defaults()
    };
    let outcome = config
        .map_err(CommandError::from)
        .and_then(|config| execute(&cli.global, &config, cli.command));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let code = error.exit_code();
            if code != 0 {
                // Nobody is left to tell when this fails.
                let _told = writeln!(Lines(stderr()), "error: {error}");
            }
            ExitCode::from(code)
        }
    }
}

/// Says what is wrong with the command line, and ends. What stands in it may have been copied from elsewhere: it is told as
/// if it had been typed inert.
fn refuse(error: &clap::Error) -> ! {
    let typed = std::env::args_os().map(|arg| inert(&arg.to_string_lossy(), usize::MAX).into_owned().into());
    match Cli::read(typed, commands::version::long()) {
        Err(error) => error.exit(),
        Ok(_) => {
            // Nobody is left to tell when this fails.
            let _told = write!(Lines(stderr()), "{error}").and_then(|()| writeln!(stderr()));
            std::process::exit(error.exit_code());
        }
    }
}

/// Lowers the priority of the calling thread.
fn give_way() {
    // Without it the threads are equals: slower in a backlog, no more.
    let _lowered = rustix::process::nice(10);
}

fn execute(flags: &GlobalArgs, config: &Config, command: Command) -> Result<ExitCode, CommandError> {
    // A command that answers a question says nothing else while all is well; nor does one that draws its progress.
    let draws = matches!(&command, Command::Run(args) if args.until_caught_up) && stderr().is_terminal();
    let quieter = u8::from(draws || !matches!(command, Command::Run(_)));
    logging::start(
        &config.log,
        flags.verbose,
        flags.quiet + quieter,
        flags.quiet == 0,
    );
    // The writer is what everything waits for. One worker reads and decodes several times what it can write, and gives
    // way to it: with two, a burst of reading takes the writer's core from it (a drain of 200,000 took 1.06 times as long).
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(give_way)
        .enable_all()
        .build()?;
    let outcome = dispatch(&runtime, flags, config, command);
    // Nobody waits for what was stopped in the middle: its files are taken away already.
    runtime.shutdown_background();
    outcome
}

fn dispatch(
    runtime: &tokio::runtime::Runtime,
    flags: &GlobalArgs,
    config: &Config,
    command: Command,
) -> Result<ExitCode, CommandError> {
    let out = &mut Lines(stdout().lock());
    let answer = |good: bool| u8::from(!good);
    let code = match command {
        Command::Run(args) => runtime
            .block_on(commands::run::run(config, &args, out))
            .map(|()| 0),
        Command::Rebuild(args) => runtime
            .block_on(commands::rebuild::rebuild(config, &args, out))
            .map(|()| 0),
        Command::Replay(args) => runtime
            .block_on(commands::replay::replay(config, &args, out))
            .map(|()| 0),
        Command::Verify(args) => runtime
            .block_on(commands::verify::verify(config, &args, out))
            .map(answer),
        Command::Status { json } => runtime
            .block_on(commands::status::status(config, json, out))
            .map(|()| 0),
        Command::DeadLetters(DeadLetters::List { json, stream, limit }) => {
            commands::dead_letters::list(config, json, stream.as_deref(), limit, out).map(|()| 0)
        }
        Command::DeadLetters(DeadLetters::Show {
            stream,
            seq,
            incarnation,
            json,
        }) => {
            let showing = commands::dead_letters::show(config, &stream, seq, incarnation, json, out);
            runtime.block_on(showing).map(answer)
        }
        Command::DeadLetters(DeadLetters::Retry(which)) => runtime
            .block_on(commands::dead_letters::retry(config, &which, out))
            .map(answer),
        Command::DeadLetters(DeadLetters::Discard { which, yes }) => runtime
            .block_on(commands::dead_letters::discard(config, &which, yes, out))
            .map(answer),
        Command::Outputs(Outputs::List { json, state, limit }) => {
            commands::outputs::list(config, json, state, limit, out).map(|()| 0)
        }
        Command::Outputs(Outputs::Retry(which)) => runtime
            .block_on(commands::outputs::retry(config, &which, out))
            .map(answer),
        Command::Backup { file, force, json } => {
            commands::backup::backup(config, &file, force, json, out).map(|()| 0)
        }
        Command::Detach(args) => runtime
            .block_on(commands::detach::detach(config, &args, out))
            .map(answer),
        Command::Dump { table, out: file } => {
            commands::dump::dump(config, &table, file.as_deref(), out).map(|()| 0)
        }
        Command::Doctor { json } => {
            let all = flags.verbose > 0;
            runtime.block_on(commands::doctor::doctor(config, json, all, out))
        }
        Command::Config(ConfigCommand::Check) => commands::config::check(config, out).map(|()| 0),
        Command::Config(ConfigCommand::Show { json }) => {
            commands::config::show(config, json, out).map(|()| 0)
        }
        Command::Config(ConfigCommand::Example) => commands::config::example(out).map(|()| 0),
        Command::Completions { shell } => commands::completions::completions(shell, out).map(|()| 0),
        Command::Man { out: folder } => commands::man::man(folder.as_deref(), out).map(|()| 0),
    };
    code.map(ExitCode::from)
}
