//! Answers that can be large, and that anybody may ask for: so many at a time, and so many to one network. A turn lasts
//! until the client has taken the answer, so that clients that read slowly cannot fill the memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::answer::Answer;

/// So many at a time.
const TURNS: usize = 16;
/// So many of these for one client.
const TURNS_OF_ONE: usize = 4;
/// How long a turn is waited for.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 3000 });

/// Who has a turn.
pub(crate) struct LargeAnswers {
    all: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The right to hold one large answer in memory.
#[derive(Debug, Clone)]
pub(crate) struct Turn(
    #[expect(dead_code, reason = "held until the turn ends")] Arc<[OwnedSemaphorePermit; 2]>,
);

/// Answers are compared by what the client sees.
impl PartialEq for Turn {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Turn {}

impl LargeAnswers {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(TURNS)),
            clients: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self, client: IpAddr) -> Result<Turn, Answer> {
        let of_client = self.of_client(client);
        let both = async {
            let of_client = of_client.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Turn(Arc::new([of_client, of_all])))
        };
        match timeout(PATIENCE, both).await {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) | Err(_) => Err(Answer::text(
                503,
                "too many large answers are being read; ask again later",
            )),
        }
    }

    fn of_client(&self, client: IpAddr) -> Arc<Semaphore> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever neither has a turn nor waits for one is forgotten.
        clients.retain(|_, turns| Arc::strong_count(turns) > 1 || turns.available_permits() < TURNS_OF_ONE);
        let turns = clients
            .entry(network(client))
            .or_insert_with(|| Arc::new(Semaphore::new(TURNS_OF_ONE)));
        Arc::clone(turns)
    }
}

/// One host may have all addresses of an IPv6 network.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A text that ends its turn when the last of it has been sent.
struct Held {
    text: String,
    _turn: Turn,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// The body of an answer.
pub(crate) fn body(text: String, turn: Option<Turn>) -> Bytes {
    match turn {
        Some(turn) => Bytes::from_owner(Held { text, _turn: turn }),
        None => Bytes::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_client_leaves_turns_to_others_and_a_body_keeps_its_own() {
        let answers = LargeAnswers::new();
        let client = |last| IpAddr::from([10, 0, 0, last]);
        let mut bodies = Vec::new();
        for _ in 0..TURNS_OF_ONE {
            bodies.push(body("x".to_owned(), Some(answers.turn(client(1)).await.unwrap())));
        }
        assert_eq!(answers.turn(client(1)).await.map_err(|no| no.status), Err(503));
        assert!(answers.turn(client(2)).await.is_ok());
        bodies.pop();
        assert!(answers.turn(client(1)).await.is_ok());
        let of_many = TURNS / TURNS_OF_ONE;
        for last in 3..3 + u8::try_from(of_many).unwrap() {
            while let Ok(turn) = answers.turn(client(last)).await {
                bodies.push(body(String::new(), Some(turn)));
            }
        }
        assert_eq!(bodies.len(), TURNS);
        assert_eq!(answers.turn(client(99)).await.map_err(|no| no.status), Err(503));
        bodies.clear();
        assert!(answers.turn(client(99)).await.is_ok());
        assert_eq!(answers.clients.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("fd00:0:0:1:2:3:4:5"), "fd00:0:0:1::");
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
    }
}
