//! `edit-config`: changes the dynamic configuration, by options or in an editor.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use config::layers::check_document;
use config::settings::check_dynamic;
use config::{Map, Problem};
use dcs::{Expect, Key};

use super::config_change::{diff, read, set, to_json, to_yaml};
use super::console::{is_terminal, print, print_line};
use super::error::Error;
use super::prompt::confirm;
use super::session::Session;
use super::show_config::tree;

#[derive(Debug, Args)]
pub(crate) struct EditConfig {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Do not show changes
    #[arg(short, long)]
    quiet: bool,
    /// Set specific configuration value. Can be specified multiple times
    #[arg(short, long = "set", value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Set specific PostgreSQL parameter value. Shorthand for -s postgresql.parameters. Can be specified multiple times
    #[arg(
        short,
        long = "pg",
        value_name = "PARAMETER=VALUE",
        allow_hyphen_values = true
    )]
    pg: Vec<String>,
    /// Apply configuration from file. Use - for stdin.
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
    /// Apply configuration from file, replacing existing configuration. Use - for stdin.
    #[arg(long, value_name = "FILE")]
    replace: Option<PathBuf>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl EditConfig {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let group = session.group_or_own(self.group);
        let (name, store) = session.store_or_scope(self.cluster_name.clone(), group).await?;
        let view = store.view().await?;
        let Some(key) = view.cluster().and_then(|cluster| cluster.config.as_ref()) else {
            return Err(Error::new(format!(
                "The config key does not exist in the cluster {name}"
            )));
        };
        let before = tree(&key.value);
        let before_text = to_yaml(&before);
        let (after, after_text) = match self.changed(&before)? {
            Some(after) => {
                let text = to_yaml(&after);
                (after, text)
            }
            None => edit(session, &before_text, &name).await?,
        };
        if after == before {
            return if self.quiet {
                Ok(())
            } else {
                print_line("Not changed")
            };
        }
        if !self.quiet {
            show(&diff(&before_text, &after_text))?;
        }
        for finding in findings(&before, &after) {
            tracing::warn!("{finding}");
        }
        check_document(&serde_json::Value::from(&config::Value::from(after.clone()))).map_err(|problem| {
            Error::new(format!("The members could not use this configuration: {problem}"))
        })?;
        if !self.force
            && [&self.apply, &self.replace]
                .into_iter()
                .flatten()
                .any(|path| is_stdin(path))
        {
            return print_line("Use --force option to apply changes");
        }
        if !self.force && !confirm("Apply these changes?").await? {
            return Ok(());
        }
        let expect = Expect::Version(key.version);
        if store
            .dcs()
            .write(Key::Config, &to_json(&after), expect)
            .await?
            .is_none()
        {
            return Err(Error::new(
                "Config modification aborted due to concurrent changes",
            ));
        }
        print_line("Configuration changed")
    }

    /// The configuration after the changes that the options ask for; `None` when they ask for none.
    fn changed(&self, before: &Map) -> Result<Option<Map>, Error> {
        let mut after = before.clone();
        if let Some(path) = &self.replace {
            after = Map::new();
            after.patch(&read_file(path)?);
        }
        if let Some(path) = &self.apply {
            after.patch(&read_file(path)?);
        }
        for assignment in &self.set {
            set(&mut after, assignment).map_err(Error::new)?;
        }
        for assignment in &self.pg {
            set(
                &mut after,
                &format!("postgresql.parameters.{}", assignment.trim_start()),
            )
            .map_err(Error::new)?;
        }
        let has_files = self.apply.is_some() || self.replace.is_some();
        Ok((has_files || !self.set.is_empty() || !self.pg.is_empty()).then_some(after))
    }
}

/// What the change brings that nothing knows, or that makes no sense where it stands: members ignore it and say so in
/// their logs, where nobody may look. It is none of a change's business what was there before.
fn findings(before: &Map, after: &Map) -> Vec<Problem> {
    let known = check_dynamic(before, "").0;
    let is_new = |finding: &Problem| {
        let is_same = |known: &Problem| known.path == finding.path && known.message == finding.message;
        !known.iter().any(is_same)
    };
    let mut found = check_dynamic(after, "").0;
    found.retain(is_new);
    for finding in &mut found {
        // In an option, or in a file that the editor has left and that is gone.
        finding.position = None;
    }
    found
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read_file(path: &Path) -> Result<Map, Error> {
    let name = path.display().to_string();
    let text = if is_stdin(path) {
        net::file::read_text_from(std::io::stdin().lock())
    } else {
        net::file::read_text(path)
    };
    let text = text.map_err(|error| Error::new(format!("could not read {name}: {error}")))?;
    read(&name, &text).map_err(Error::new)
}

/// Lets the user edit the text, and reads what comes of it.
async fn edit(session: &Session, text: &str, cluster_name: &str) -> Result<(Map, String), Error> {
    let editor = std::env::var_os("EDITOR")
        .filter(|editor| !editor.is_empty())
        .or_else(|| ["editor", "vi"].into_iter().find_map(find_program))
        .ok_or_else(|| {
            Error::new("EDITOR environment variable is not set. editor or vi are not available")
        })?;
    let failed =
        |error: std::io::Error| Error::new(format!("could not write the file to be edited: {error}"));
    let prefix = format!("{}-config-", cluster_name.replace('/', "_"));
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".yaml")
        .tempfile()
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.flush())
        .map_err(failed)?;
    // Ctrl-C is the editor's while it runs.
    let status = session
        .without_interrupt(tokio::process::Command::new(&editor).arg(file.path()).status())
        .await;
    let status = status.map_err(|error| {
        Error::new(format!(
            "could not start the editor {}: {error}",
            editor.display()
        ))
    })?;
    if !status.success() {
        let code = status
            .code()
            .map_or_else(|| status.to_string(), |code| code.to_string());
        return Err(Error::new(format!("Editor exited with return code {code}")));
    }
    let name = file.path().display().to_string();
    let text = net::file::read_text(file.path())
        .map_err(|error| Error::new(format!("could not read {name}: {error}")))?;
    Ok((read(&name, &text).map_err(Error::new)?, text))
}

fn find_program(name: &str) -> Option<OsString> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .map(PathBuf::into_os_string)
}

/// Prints a diff; to a person in colours and through a pager.
fn show(diff: &str) -> Result<(), Error> {
    if !is_terminal() {
        return print(diff);
    }
    let configured = std::env::var("PAGER").ok().filter(|pager| !pager.is_empty());
    let pager = configured
        .as_deref()
        .into_iter()
        .chain(["less", "more"])
        .find_map(find_program);
    let pager = pager.ok_or_else(|| {
        Error::new(
            "No pager could be found. Either set PAGER environment variable with your pager or install either \
             \"less\" or \"more\" in the host.",
        )
    })?;
    let mut command = std::process::Command::new(&pager);
    if Path::new(&pager).ends_with("less") {
        // Colours pass, and what fits on the screen stays there.
        command.arg("-FRSX");
    }
    let failed =
        |error: std::io::Error| Error::new(format!("could not run the pager {}: {error}", pager.display()));
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A pager that is left early reads no more.
        let _ = input.write_all(coloured(diff).as_bytes());
    }
    child.wait().map_err(failed)?;
    Ok(())
}

fn coloured(diff: &str) -> String {
    // The pager shows colours, so it would obey everything else as well.
    let diff = config::escape::lines(diff);
    let colour = |line: &str| match line.chars().next() {
        Some('+') => format!("\x1b[32m{line}\x1b[0m\n"),
        Some('-') => format!("\x1b[31m{line}\x1b[0m\n"),
        Some('@') => format!("\x1b[36m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    };
    diff.lines().map(colour).collect()
}
