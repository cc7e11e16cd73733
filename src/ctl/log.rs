//! Warnings on standard error, as Python's `%(asctime)s - %(levelname)s - %(message)s`.

use std::fmt::{Debug, Write as _};

use config::escape;
use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::console::print_error;

/// The variables that set the level; the last one counts.
const LEVEL_VARIABLES: [&str; 3] = ["LOGLEVEL", "PATRONI_LOGLEVEL", "PATRONI_LOG_LEVEL"];

/// Starts logging, at level WARNING unless a variable says otherwise.
pub(crate) fn start() {
    let level = LEVEL_VARIABLES
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .next_back();
    let filter = level.as_deref().map_or(LevelFilter::WARN, parse);
    let subscriber = tracing_subscriber::registry().with(StandardError { filter });
    // Fails only if logging has been started already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Python's names of levels; an unknown one means warnings.
fn parse(level: &str) -> LevelFilter {
    match level.to_ascii_uppercase().as_str() {
        "NOTSET" | "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "ERROR" | "CRITICAL" | "FATAL" => LevelFilter::ERROR,
        _ => LevelFilter::WARN,
    }
}

struct StandardError {
    filter: LevelFilter,
}

impl<S: Subscriber> Layer<S> for StandardError {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // The libraries' own chatter helps nobody here.
        let is_ours = ["tamada", "dcs", "net", "ha", "config", "postgres"]
            .iter()
            .any(|name| metadata.target().starts_with(name));
        is_ours && *metadata.level() <= self.filter
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let now = Zoned::now();
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let milliseconds = now.subsec_nanosecond() / 1_000_000;
        let time = format!("{},{milliseconds:03}", now.strftime("%Y-%m-%d %H:%M:%S"));
        print_error(&format!(
            "{time} - {level} - {}{}\n",
            escape::line(&message.text),
            escape::line(&message.fields)
        ));
    }
}

#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing into a text cannot fail.
        let _ = if field.name() == "message" {
            write!(self.text, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
