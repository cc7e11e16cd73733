//! Completion in bash, zsh and fish: the shell asks the program itself, so that clusters and members are those that the
//! store has at that moment (documentation of clap_complete, "env").

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::command_line;
use crate::ctl::{Session, Settings};

/// By which variable a shell asks.
const VARIABLE: &str = "COMPLETE";

/// A shell waits, and so does a person.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Answers a shell and ends the program, if it is a shell that asks.
pub fn answer() {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return;
    }
    let called_as = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = called_as
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("tamada")
        .to_owned();
    let commands = command_line::commands();
    let known = commands.iter().any(|command| command.get_name() == name);
    let name = if known { name } else { "tamada".to_owned() };
    CompleteEnv::with_factory(|| {
        let command = commands.iter().find(|command| command.get_name() == name);
        with_names(command.cloned().unwrap_or_else(command_line::Program::command))
    })
    .bin(name.clone())
    .completer(name.clone())
    .complete();
}

/// Arguments that are a cluster or a member offer those that there are.
fn with_names(command: Command) -> Command {
    let offer = |arg: Arg| match arg.get_id().as_str() {
        "cluster_name" | "cluster_names" => arg.add(ArgValueCandidates::new(clusters)),
        "member_names" | "member" | "candidate" | "leader" => arg.add(ArgValueCandidates::new(members)),
        _ => arg,
    };
    command.mut_args(offer).mut_subcommands(with_names)
}

fn clusters() -> Vec<CompletionCandidate> {
    let names = ask(async |settings: Settings| {
        let scopes = dcs::scopes(&settings.dcs, &settings.namespace, dcs::Timing::default());
        Some(scopes.await.ok()?.into_iter().collect())
    });
    candidates(names)
}

/// The members of the cluster that stands on the line, else of the configuration's own.
fn members() -> Vec<CompletionCandidate> {
    let names = ask(async |settings: Settings| {
        let scopes = dcs::scopes(&settings.dcs, &settings.namespace, dcs::Timing::default())
            .await
            .ok()?;
        let named = words().find_map(|word| word.into_string().ok().filter(|word| scopes.contains(word)));
        let scope = named.or_else(|| settings.scope.clone())?;
        let session = Session::new(settings);
        let view = session.store(&scope, None).await.ok()?.view().await.ok()?;
        let members = view.groups.values().flat_map(|cluster| &cluster.members);
        Some(members.map(|member| member.name.to_string()).collect())
    });
    candidates(names)
}

fn candidates(names: Option<Vec<String>>) -> Vec<CompletionCandidate> {
    names
        .into_iter()
        .flatten()
        .map(CompletionCandidate::new)
        .collect()
}

/// Whatever goes wrong, there is nothing to offer, and nothing is said into the line that somebody types.
fn ask<T>(question: impl AsyncFnOnce(Settings) -> Option<T>) -> Option<T> {
    let option = |names: [&str; 2]| {
        let mut words = words();
        words.find(|word| names.iter().any(|name| word == *name))?;
        words.next()
    };
    let file = option(["-c", "--config-file"]).map(PathBuf::from);
    let url = option(["-d", "--dcs-url"]).and_then(|url| url.into_string().ok());
    let settings = Settings::load(file, url, false).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        tokio::time::timeout(TIMEOUT, question(settings))
            .await
            .ok()
            .flatten()
    })
}

/// The line as far as it is typed, behind the program's own words.
fn words() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip_while(|word| word != "--").skip(1)
}
