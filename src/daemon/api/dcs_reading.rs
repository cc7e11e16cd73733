//! Readings of the DCS for requests that only show something: one at a time, whoever asks. Those who ask while one runs
//! take the next one together, so that any number of clients costs the DCS one reading after the other.

use std::sync::{Arc, Mutex, PoisonError};

use ha::cluster::Cluster;
use tokio::time::Instant;

/// A reading, or why it failed.
pub(crate) type Reading = Result<Arc<Cluster>, String>;

/// The readings, taken by all together.
#[derive(Default)]
pub(crate) struct DcsReadings {
    newest: Mutex<Option<(Instant, Reading)>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl DcsReadings {
    /// A reading that began at `not_before` or later; `load` is called unless there is one.
    pub(crate) async fn read<F>(
        self: &Arc<Self>,
        not_before: Instant,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> Reading
    where
        F: Future<Output = Result<Cluster, dcs::Error>> + Send,
    {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(known) = self.known(not_before) {
            return known;
        }
        // A task of its own: when this client goes away, the others still get the reading.
        let this = Arc::clone(self);
        let reading = tokio::spawn(async move {
            let began = Instant::now();
            let reading = load().await.map(Arc::new).map_err(|error| {
                tracing::warn!("REST API: {error:#}");
                error.to_string()
            });
            *this.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, reading.clone()));
            drop(turn);
            reading
        });
        reading
            .await
            .unwrap_or_else(|_| Err("the DCS could not be read".to_owned()))
    }

    fn known(&self, not_before: Instant) -> Option<Reading> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest
            .as_ref()
            .filter(|(began, _)| *began >= not_before)
            .map(|(_, reading)| reading.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_clients_cost_one_reading_after_the_other() {
        let readings = Arc::new(DcsReadings::default());
        let loads = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let read = || {
            let (loads, gate) = (Arc::clone(&loads), Arc::clone(&gate));
            let load = move || async move {
                loads.fetch_add(1, Ordering::SeqCst);
                let _ = gate.acquire().await;
                Ok(Cluster::default())
            };
            let readings = Arc::clone(&readings);
            async move { readings.read(Instant::now(), load).await }
        };
        let first = tokio::spawn(read());
        while loads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..100).map(|_| tokio::spawn(read())).collect();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
        assert!(first.await.unwrap().is_ok());
        for other in others {
            assert!(other.await.unwrap().is_ok());
        }
        assert_eq!(loads.load(Ordering::SeqCst), 2);
        assert!(read().await.is_ok());
        assert_eq!(
            loads.load(Ordering::SeqCst),
            3,
            "a later request gets a later reading"
        );
    }
}
