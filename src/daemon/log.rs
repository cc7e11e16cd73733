//! The log in Patroni's formats (Patroni documentation, "YAML Configuration Settings", `log`).
//!
//! A record is formatted where it is made and put into a bounded queue; a thread of its own writes. A slow disk, or a
//! journal that does not read, never holds up the HA loop: records that find the queue full are counted and dropped.
//!
//! Where standard error leads to systemd's journal, records go there with their fields instead of lines of text.

mod entry;
mod fold;
mod format;
mod journal;
mod queue;
mod sink;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use config::LocalConfig;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use self::entry::Entry;
use self::fold::{Fold, Place};
use self::format::{Format, Record};
pub use self::journal::Journal;
use self::queue::Queue;
pub use self::sink::StandardError;
use self::sink::{Files, Line};

/// Records of this program's own packages; everything else is shown from `WARNING` on.
const OWN: &str = "tamada";

/// An event with this field set is `CRITICAL`, a level that `tracing` does not have.
const CRITICAL_FIELD: &str = "critical";

/// What the log lost and what waits to be written, for `GET /patroni`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Records that wait.
    pub waiting: usize,
    /// Records that were dropped since the start.
    pub lost: u64,
}

/// The running log.
#[derive(Clone)]
pub struct Log {
    settings: Arc<RwLock<Arc<Settings>>>,
    queue: Arc<Queue>,
    fold: Arc<Mutex<Fold>>,
    /// What the journal calls this program, where there is a journal.
    identifier: Option<Arc<str>>,
}

struct Settings {
    format: Format,
    levels: Levels,
    /// The fields of every record in the journal, where there is one.
    always: Option<Entry>,
}

/// Python's numbers for levels.
struct Levels {
    level: u8,
    loggers: BTreeMap<String, u8>,
}

impl Levels {
    fn of(&self, target: &str) -> u8 {
        let name = target.replace("::", ".");
        let is_below = |logger: &str| {
            name.strip_prefix(logger)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let special = self.loggers.iter().filter(|(logger, _)| is_below(logger));
        match special.max_by_key(|(logger, _)| logger.len()) {
            Some((_, level)) => *level,
            None if target.starts_with(OWN) => self.level,
            None => self.level.max(format::WARNING),
        }
    }
}

impl Log {
    /// Starts the log with Patroni's defaults, to standard error, for this process.
    ///
    /// # Errors
    /// The writing thread could not be started, or a log was started before.
    pub fn start() -> anyhow::Result<Self> {
        let log = Self::to(StandardError::of_this_process())?;
        tracing::subscriber::set_global_default(log.subscriber())?;
        Ok(log)
    }

    /// A log with Patroni's defaults that writes what its [`Log::subscriber`] is told.
    ///
    /// # Errors
    /// The writing thread could not be started.
    pub fn to(stderr: StandardError) -> std::io::Result<Self> {
        let identifier = stderr.journal().map(|journal| Arc::from(journal.identifier()));
        let settings = Settings {
            format: Format::default(),
            levels: Levels {
                level: format::INFO,
                loggers: BTreeMap::new(),
            },
            always: identifier.as_deref().map(identified),
        };
        Ok(Self {
            settings: Arc::new(RwLock::new(Arc::new(settings))),
            queue: Queue::start(stderr)?,
            fold: Arc::default(),
            identifier,
        })
    }

    /// What has to hear of events for them to be logged.
    #[must_use]
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        tracing_subscriber::registry().with(PatroniLayer { log: self.clone() })
    }

    /// Puts a configuration into force. What cannot be used in it is told by the log itself, and the rest holds.
    pub fn configure(&self, local: &LocalConfig) {
        let config = &local.log;
        let (format, mut problems) = Format::from_config(config);
        let mut level = |name: &str| {
            format::level_number(name).unwrap_or_else(|| {
                problems.push(format!("log: unknown level {name:?}: using INFO"));
                format::INFO
            })
        };
        let levels = Levels {
            level: level(&config.level),
            loggers: config
                .loggers
                .iter()
                .map(|(logger, name)| (logger.clone(), level(name)))
                .collect(),
        };
        let always = self.identifier.as_deref().map(|identifier| {
            let mut always = identified(identifier);
            always.add("TAMADA_SCOPE", &local.scope);
            always.add("TAMADA_MEMBER", &local.name);
            for (name, value) in format.fixed() {
                always.add_foreign(name, &value);
            }
            always
        });
        let files = Files::from_config(config);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings {
            format,
            levels,
            always,
        });
        self.queue.limit(config.max_queue_size as usize);
        match files {
            Ok(files) => self.queue.redirect(files),
            Err(problem) => problems.push(problem),
        }
        for problem in problems {
            tracing::error!("{problem}");
        }
    }

    /// Whether records at `DEBUG` are shown.
    #[must_use]
    pub fn shows_debug(&self) -> bool {
        self.settings().levels.of(OWN) <= format::DEBUG
    }

    /// What waits and what was lost.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.queue.backlog()
    }

    /// Waits until everything is written, at most this long. Whether it is.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.write_repeats(None);
        self.queue.flush(at_most)
    }

    fn fold(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes how often lines came again whose time for that has come, or all of them.
    fn write_repeats(&self, now: Option<Instant>) {
        let due = self.fold().due(now);
        for line in due {
            let record = Record {
                level: line.level,
                target: line.target,
                file: line.file,
                line: line.line,
                message: &line.message,
                at: jiff::Zoned::now(),
            };
            self.write(&record, &[]);
        }
    }

    fn write(&self, record: &Record<'_>, fields: &[(&'static str, String)]) {
        let settings = self.settings();
        let text = settings.format.line(record);
        let entry = settings.always.as_ref().map(|always| {
            // The journal keeps time and level in fields of their own. JSON is asked for by whoever reads it by program.
            let message = if settings.format.is_json() {
                &text
            } else {
                record.message
            };
            Entry::of_record(always, record, message, fields)
        });
        self.queue.push(Line { text, entry });
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The first fields of every record.
fn identified(identifier: &str) -> Entry {
    let mut always = Entry::default();
    always.add("SYSLOG_IDENTIFIER", identifier);
    always
}

struct PatroniLayer {
    log: Log,
}

impl<S: Subscriber> Layer<S> for PatroniLayer {
    // The levels can change at any time, so nothing may be remembered about a call site.
    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        // An error may yet turn out to be critical.
        let number = match *metadata.level() {
            Level::ERROR => format::CRITICAL,
            level => format::number(level),
        };
        number >= self.log.settings().levels.of(metadata.target())
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let settings = self.log.settings();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = if fields.is_critical {
            format::CRITICAL
        } else {
            format::number(*metadata.level())
        };
        if level < settings.levels.of(metadata.target()) {
            return;
        }
        let record = Record {
            level,
            target: metadata.target(),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            message: &fields.message,
            at: jiff::Zoned::now(),
        };
        let place = Place {
            target: metadata.target(),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
        };
        let now = Instant::now();
        let is_new = self.log.fold().is_new(now, level, record.message, place);
        self.log.write_repeats(Some(now));
        if is_new {
            self.log.write(&record, &fields.others);
        }
    }
}

/// The message, and after it what other fields the event has.
#[derive(Default)]
struct Fields {
    message: String,
    /// The other fields apart.
    others: Vec<(&'static str, String)>,
    is_critical: bool,
}

impl Fields {
    fn add(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        let mut text = String::new();
        // Writing to a String cannot fail; a field's own Debug that fails leaves what it has written.
        let _ = text.write_fmt(value);
        if field.name() == "message" {
            // The message stands first whatever the order of the fields.
            self.message.insert_str(0, &text);
        } else {
            let _ = write!(self.message, " {}={text}", field.name());
            self.others.push((field.name(), text));
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == CRITICAL_FIELD {
            self.is_critical = value;
        } else {
            self.add(field, format_args!("{value}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_logger_wins_and_others_are_quiet() {
        let levels = Levels {
            level: format::DEBUG,
            loggers: BTreeMap::from([
                ("tamada.daemon".to_owned(), format::ERROR),
                ("tamada".to_owned(), format::INFO),
                ("h2".to_owned(), format::DEBUG),
            ]),
        };
        assert_eq!(levels.of("tamada::daemon::cycle"), format::ERROR);
        assert_eq!(levels.of("tamada::ctl"), format::INFO);
        assert_eq!(levels.of("h2::client"), format::DEBUG);
        assert_eq!(levels.of("tower"), format::WARNING);
        assert_eq!(levels.of("tamada_dcs::etcd3"), format::DEBUG);
    }
}
