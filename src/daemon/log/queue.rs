//! The bounded queue between those who log and the thread that writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Backlog;
use super::sink::{Files, Line, Sink, StandardError};

/// `log.max_queue_size` by default.
const LIMIT_DEFAULT: usize = 1000;

pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

struct State {
    lines: VecDeque<Line>,
    limit: usize,
    lost: u64,
    /// The outer says whether anything is to change, the inner whether there are files.
    redirect: Option<Option<Files>>,
    is_writing: bool,
}

impl Queue {
    /// Starts the thread that writes to `stderr`, or to files from when it is told to.
    pub(super) fn start(stderr: StandardError) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                limit: LIMIT_DEFAULT,
                lost: 0,
                redirect: None,
                is_writing: false,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        });
        let writer = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_to(Sink::new(stderr)))?;
        Ok(queue)
    }

    pub(super) fn push(&self, line: Line) {
        let mut state = self.lock();
        if state.lines.len() >= state.limit {
            state.lost += 1;
        } else {
            state.lines.push_back(line);
            self.filled.notify_one();
        }
    }

    pub(super) fn limit(&self, limit: usize) {
        self.lock().limit = limit.max(1);
    }

    /// From now on lines go to these files, or to standard error; those that wait, too.
    pub(super) fn redirect(&self, files: Option<Files>) {
        self.lock().redirect = Some(files);
        self.filled.notify_one();
    }

    pub(super) fn backlog(&self) -> Backlog {
        let state = self.lock();
        Backlog {
            waiting: state.lines.len(),
            lost: state.lost,
        }
    }

    pub(super) fn flush(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut state = self.lock();
        while state.is_writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .drained
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn write_to(&self, mut sink: Sink) {
        loop {
            let mut state = self.lock();
            state.is_writing = false;
            self.drained.notify_all();
            while state.lines.is_empty() && state.redirect.is_none() {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.is_writing = true;
            let lines = std::mem::take(&mut state.lines);
            let redirect = state.redirect.take();
            drop(state);
            if let Some(files) = redirect {
                sink.redirect(files);
            }
            for line in &lines {
                sink.write(line);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
