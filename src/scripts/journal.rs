//! What these programs tell, in the form of Patroni's own: time, level, text; to standard error or to a file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use jiff::Zoned;

/// Where to.
pub(super) struct Journal {
    file: Option<File>,
}

impl Journal {
    /// To standard error.
    pub(super) fn console() -> Self {
        Self { file: None }
    }

    /// To the end of a file, where there is one.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            file: path.map(open).transpose()?,
        })
    }

    pub(super) fn info(&self, text: &str) {
        self.write("INFO", text);
    }

    pub(super) fn warning(&self, text: &str) {
        self.write("WARNING", text);
    }

    pub(super) fn error(&self, text: &str) {
        self.write("ERROR", text);
    }

    /// Who has closed it, or has a full disk, has nothing to read; the work goes on.
    fn write(&self, level: &str, text: &str) {
        let now = Zoned::now();
        let line = format!(
            "{},{:03} {level}: {}\n",
            now.strftime("%Y-%m-%d %H:%M:%S"),
            now.millisecond(),
            config::escape::lines(text).replace('\n', "\n\t")
        );
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().lock().write_all(line.as_bytes()),
        };
    }
}
