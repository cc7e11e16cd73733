//! The machine's watchdog: a device that resets the machine when nobody has pinged it for a while (Patroni
//! documentation, "Watchdog support"). It is armed while this member is the primary, and pinged by nothing but a renewal
//! of the lease, so a machine on which everything hangs, the guard included, is gone before the lease is.

mod device;
mod ioctl;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::{DynamicConfig, WatchdogConfig, WatchdogMode};
use ha::facts::Moment;

use super::clock;
use device::{Device, Driver};

/// How late a ping may come after its renewal was sent, where the safety margin is shorter.
const LATE: Duration = Duration::from_secs(1);

/// The watchdog, for all that use it. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog(Arc<Mutex<State>>);

/// What the settings want of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    mode: WatchdogMode,
    path: PathBuf,
    driver: Driver,
    ttl: Duration,
    loop_wait: Duration,
    /// How long before the end of the lease the machine is to be reset.
    margin: Duration,
}

impl Wish {
    pub(crate) fn new(local: &WatchdogConfig, config: &DynamicConfig) -> Self {
        let margin = match local.safety_margin_seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => config.ttl - Duration::from_secs(config.ttl.as_secs() / 2),
        };
        Self {
            mode: local.mode,
            path: local.device.clone(),
            driver: Driver::named(&local.driver),
            ttl: config.ttl,
            loop_wait: config.loop_wait,
            margin,
        }
    }

    /// After how long without a ping the machine is to be reset.
    fn timeout(&self) -> Duration {
        self.ttl.saturating_sub(self.margin)
    }

    /// # Errors
    /// A renewal every `loop_wait` would come too late.
    fn check(&self) -> Result<(), String> {
        if self.timeout() >= self.loop_wait && !self.timeout().is_zero() {
            return Ok(());
        }
        let seconds = |time: Duration| time.as_secs();
        Err(format!(
            "a watchdog of {} s (ttl {} less safety_margin {}) is shorter than loop_wait {}: make ttl longer, or \
             watchdog.safety_margin smaller",
            seconds(self.timeout()),
            seconds(self.ttl),
            seconds(self.margin),
            seconds(self.loop_wait)
        ))
    }

    fn is_same_device(&self, other: &Self) -> bool {
        self.path == other.path && self.driver == other.driver
    }
}

#[derive(Debug)]
struct State {
    wish: Wish,
    active: Option<Active>,
    /// It could not be activated, with the present wish: when that is tried again where it is required.
    failed_until: Option<Moment>,
    /// What was said about it last, so that it is said once.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Active {
    device: Device,
    /// By which it was activated.
    wish: Wish,
}

impl Watchdog {
    /// Nothing is opened before it is needed.
    pub(crate) fn new(wish: Wish) -> Self {
        Self(Arc::new(Mutex::new(State {
            wish,
            active: None,
            failed_until: None,
            trouble: None,
        })))
    }

    /// The settings may have changed. Takes effect with the next ping; `off` does at once.
    pub(crate) fn configure(&self, wish: Wish) {
        let mut state = self.state();
        if state.wish != wish {
            state.wish = wish;
            state.failed_until = None;
            state.trouble = None;
        }
        if state.wish.mode == WatchdogMode::Off {
            state.disable();
        }
    }

    /// It is required, and this member has none that could be used.
    pub(crate) fn is_wanting(&self) -> bool {
        let state = self.state();
        if state.wish.mode != WatchdogMode::Required {
            return false;
        }
        let has_failed = state.failed_until.is_some_and(|until| clock::now() < until);
        let is_usable = state.active.is_some() || device::can_be_written(&state.wish.path);
        has_failed || !is_usable || state.wish.check().is_err()
    }

    /// Has it activated, before this member becomes a primary.
    ///
    /// # Errors
    /// It cannot be, and is required.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        self.state().prepare()
    }

    /// The lease was prolonged by a request that was sent at `sent_at`, and a primary runs or is about to.
    pub(crate) fn lease_was_renewed(&self, sent_at: Moment) {
        let mut state = self.state();
        // What fails was said, and shows in `is_wanting`.
        let _ = state.prepare();
        state.ping(sent_at);
    }

    /// No primary runs here, and none is about to.
    pub(crate) fn disable(&self) {
        self.state().disable();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn prepare(&mut self) -> Result<(), String> {
        if self.wish.mode == WatchdogMode::Off {
            return Ok(());
        }
        let is_required = self.wish.mode == WatchdogMode::Required;
        let Err(why) = self.activate() else {
            self.failed_until = None;
            self.trouble = None;
            return Ok(());
        };
        if self.trouble.as_ref() != Some(&why) {
            if is_required {
                tracing::error!(
                    "Configuration requires watchdog, but watchdog could not be activated: {why}"
                );
            } else if self.wish.path.exists() {
                tracing::info!("no watchdog: {why}");
            } else {
                tracing::debug!("no watchdog: {why}");
            }
            self.trouble = Some(why.clone());
        }
        if !is_required {
            return Ok(());
        }
        self.disable();
        self.failed_until = Some(clock::now().after(self.wish.ttl));
        Err(format!("watchdog could not be activated: {why}"))
    }

    /// As it is wanted, whatever it is.
    fn activate(&mut self) -> Result<(), String> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.wish == self.wish)
        {
            return Ok(());
        }
        if let Err(why) = self.wish.check() {
            self.disable();
            return Err(why);
        }
        let is_other = |active: &Active| !active.wish.is_same_device(&self.wish);
        if self.active.as_ref().is_some_and(is_other) {
            self.disable();
        }
        let path = &self.wish.path;
        let mut device = match self.active.take() {
            Some(active) => active.device,
            None => Device::open(path, self.wish.driver)
                .map_err(|error| format!("could not open {}: {error}", path.display()))?,
        };
        match set_timeout(&mut device, &self.wish) {
            Ok(timeout) => {
                tracing::info!(
                    "{} activated with {} second timeout, timing slack {} seconds",
                    device.identity(),
                    timeout.as_secs(),
                    timeout.saturating_sub(self.wish.loop_wait).as_secs()
                );
                let wish = self.wish.clone();
                self.active = Some(Active { device, wish });
                Ok(())
            }
            Err(why) => {
                close(device);
                Err(format!("{}: {why}", path.display()))
            }
        }
    }

    fn ping(&mut self, sent_at: Moment) {
        let Some(active) = &mut self.active else { return };
        // The device counts from the ping, the lease from the request.
        let late = clock::now().since(sent_at);
        if late > active.wish.margin.max(LATE) {
            tracing::warn!("the watchdog is not pinged: the renewal took {late:?}");
        } else if let Err(error) = active.device.ping() {
            tracing::error!("could not ping the watchdog: {error}");
        }
    }

    fn disable(&mut self) {
        if let Some(active) = self.active.take() {
            close(active.device);
        }
    }
}

/// Sets the timeout that is wanted; the one that the device has then.
fn set_timeout(device: &mut Device, wish: &Wish) -> Result<Duration, String> {
    let wanted = wish.timeout();
    let timeout = device.set_timeout(wanted).map_err(|error| error.to_string())?;
    let (has, wants) = (timeout.as_secs(), wanted.as_secs());
    if timeout < wish.loop_wait {
        return Err(format!(
            "its timeout is {has} s, which is shorter than loop_wait {}",
            wish.loop_wait.as_secs()
        ));
    }
    if timeout <= wanted {
        return Ok(timeout);
    }
    if wish.mode == WatchdogMode::Required {
        return Err(format!("its timeout is {has} s and cannot be made {wants} s"));
    }
    tracing::warn!("the watchdog's timeout is {has} s and cannot be made {wants} s: it may come too late");
    Ok(timeout)
}

fn close(device: Device) {
    let identity = device.identity();
    match device.disable() {
        Ok(()) => tracing::debug!("{identity} disabled"),
        Err(error) => tracing::error!("could not disable {identity}, it may reset this machine: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    /// A reader of a FIFO in the place of a device.
    struct Bench {
        _folder: tempfile::TempDir,
        path: PathBuf,
        reader: File,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("watchdog");
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            let reader = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
            Self {
                _folder: folder,
                path,
                reader: reader.into(),
            }
        }

        fn read(&mut self) -> String {
            let mut bytes = [0; 256];
            let count = self.reader.read(&mut bytes).unwrap_or(0);
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        }

        fn wish(&self, mode: WatchdogMode, ttl: u64, margin: Option<u32>) -> Wish {
            let local = WatchdogConfig {
                mode,
                device: self.path.clone(),
                safety_margin_seconds: margin,
                driver: "testing".to_owned(),
            };
            let document = serde_json::json!({"ttl": ttl, "loop_wait": 5, "retry_timeout": 3});
            let (config, _) = DynamicConfig::read(&document, config::Minimums::TAMADA);
            Wish::new(&local, &config)
        }
    }

    #[test]
    fn it_is_armed_pinged_changed_and_disabled() {
        let mut bench = Bench::new();
        let watchdog = Watchdog::new(bench.wish(WatchdogMode::Automatic, 21, Some(5)));
        assert_eq!(bench.read(), "");
        watchdog.prepare().unwrap();
        assert_eq!(bench.read(), "Ctimeout=16\n");
        watchdog.lease_was_renewed(clock::now());
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "11");
        // Too late: the device would count from now, the lease counts from when the request was sent.
        let long_ago = Moment(clock::now().0.saturating_sub(Duration::from_secs(6)));
        watchdog.lease_was_renewed(long_ago);
        assert_eq!(bench.read(), "");

        watchdog.configure(bench.wish(WatchdogMode::Automatic, 20, Some(5)));
        assert_eq!(bench.read(), "");
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "Ctimeout=15\n1");
        watchdog.configure(bench.wish(WatchdogMode::Automatic, 21, None));
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "Ctimeout=10\n1");
        watchdog.disable();
        watchdog.disable();
        assert_eq!(bench.read(), "V");
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "Ctimeout=10\n1");
        watchdog.configure(bench.wish(WatchdogMode::Off, 21, None));
        assert_eq!(bench.read(), "V");
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "");
    }

    #[test]
    fn without_a_device_only_required_says_no() {
        let bench = Bench::new();
        std::fs::remove_file(&bench.path).unwrap();
        let automatic = Watchdog::new(bench.wish(WatchdogMode::Automatic, 21, Some(5)));
        assert_eq!(automatic.prepare(), Ok(()));
        assert!(!automatic.is_wanting());
        let required = Watchdog::new(bench.wish(WatchdogMode::Required, 21, Some(5)));
        assert!(required.is_wanting());
        let refusal = required.prepare().unwrap_err();
        assert!(refusal.contains("could not open"), "{refusal}");
        required.configure(bench.wish(WatchdogMode::Off, 21, Some(5)));
        assert!(!required.is_wanting());
    }

    #[test]
    fn timers_that_leave_no_room_for_a_ping_are_refused() {
        let mut bench = Bench::new();
        let watchdog = Watchdog::new(bench.wish(WatchdogMode::Required, 21, Some(17)));
        assert!(watchdog.is_wanting());
        let refusal = watchdog.prepare().unwrap_err();
        assert!(refusal.contains("shorter than loop_wait 5"), "{refusal}");
        assert_eq!(bench.read(), "");
        // Where one is active it is disabled: it would reset a machine on which all is well.
        watchdog.configure(bench.wish(WatchdogMode::Automatic, 21, Some(5)));
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "Ctimeout=16\n1");
        watchdog.configure(bench.wish(WatchdogMode::Automatic, 21, Some(20)));
        watchdog.lease_was_renewed(clock::now());
        assert_eq!(bench.read(), "V");
    }

    #[test]
    fn what_is_no_watchdog_is_refused() {
        let bench = Bench::new();
        let mut wish = bench.wish(WatchdogMode::Required, 21, Some(5));
        wish.driver = Driver::Linux;
        wish.path = "/dev/null".into();
        let watchdog = Watchdog::new(wish);
        assert!(!watchdog.is_wanting());
        let refusal = watchdog.prepare().unwrap_err();
        assert!(refusal.contains("/dev/null: it is not a watchdog"), "{refusal}");
        assert!(watchdog.is_wanting(), "for a while, so that others may lead");
    }
}
