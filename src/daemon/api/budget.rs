//! How many connections the REST API holds: in all, from one address, and from others than members.
//!
//! Anybody can open connections and say nothing. The descriptors that they take are those that the HA loop looks at
//! PostgreSQL with, so they get a small part of what the process may have. One address gets a part of that, so that nobody
//! shuts all others out, and the last part is for members, who need each other's answers in a failover.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More connections than this serve nobody.
const CONNECTIONS_MAX: usize = 1024;

/// Fewer would be of no use.
const CONNECTIONS_MIN: usize = 16;

/// The part of the process's descriptors that connections may take.
const PART_OF_DESCRIPTORS: u64 = 4;

/// The part of all connections that one address may have, and that is kept for members.
const PART_OF_CONNECTIONS: usize = 4;

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    total: usize,
    of_one_address: usize,
    of_strangers: usize,
}

impl Limits {
    fn of(descriptors: u64) -> Self {
        let part = usize::try_from(descriptors / PART_OF_DESCRIPTORS).unwrap_or(usize::MAX);
        let total = part.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        Self {
            total,
            of_one_address: total / PART_OF_CONNECTIONS,
            of_strangers: total - total / PART_OF_CONNECTIONS,
        }
    }
}

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} connections are open, which is as many as there may be")]
    Full(usize),
    #[error("{0} connections are open, and the rest is for members of the cluster")]
    KeptForMembers(usize),
    #[error("{0} connections from this address are open, which is as many as one may have")]
    OneAddress(usize),
}

/// Counts the connections.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    members: HashSet<IpAddr>,
    of_address: HashMap<IpAddr, usize>,
    total: usize,
}

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    budget: Arc<Budget>,
    origin: IpAddr,
}

impl Budget {
    /// What a process may hold that may have so many files open.
    pub(crate) fn new(descriptors: u64) -> Arc<Self> {
        Arc::new(Self {
            limits: Limits::of(descriptors),
            open: Mutex::default(),
        })
    }

    /// Where members come from.
    pub(crate) fn set_members(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.open().members = addresses.into_iter().map(origin_of).collect();
    }

    /// Counts a connection from this address in.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let origin = origin_of(address);
        let Limits {
            total,
            of_one_address,
            of_strangers,
        } = self.limits;
        let mut open = self.open();
        let from_there = open.of_address.get(&origin).copied().unwrap_or(0);
        if from_there >= of_one_address {
            return Err(Refusal::OneAddress(from_there));
        }
        if open.total >= total {
            return Err(Refusal::Full(open.total));
        }
        if open.total >= of_strangers && !open.members.contains(&origin) {
            return Err(Refusal::KeptForMembers(open.total));
        }
        open.total += 1;
        open.of_address.insert(origin, from_there + 1);
        drop(open);
        Ok(Place {
            budget: Arc::clone(self),
            origin,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.budget.open();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.of_address.get_mut(&self.origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.of_address.remove(&self.origin);
            }
        }
    }
}

/// What counts as one address: of IPv6 whole networks of 64 bits are given to one host.
fn origin_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_are_a_small_part_of_what_the_process_may_open() {
        for descriptors in [64, 256, 1024, 4096, 65_536, u64::MAX] {
            let limits = Limits::of(descriptors);
            assert!(
                limits.total as u64 <= descriptors / 4,
                "{limits:?} of {descriptors}"
            );
            assert!(limits.of_strangers < limits.total && limits.of_one_address > 0);
        }
        assert_eq!(Limits::of(1024).total, 256);
        assert_eq!(Limits::of(u64::MAX).total, CONNECTIONS_MAX);
        assert_eq!(Limits::of(0).total, CONNECTIONS_MIN);
    }

    #[test]
    fn one_address_has_its_part_and_gives_it_back() {
        let budget = Budget::new(256);
        let mut places: Vec<_> = (0..16).map(|_| budget.admit(address("10.0.0.1"))).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(
            budget.admit(address("::ffff:10.0.0.1")).unwrap_err(),
            Refusal::OneAddress(16)
        );
        drop(budget.admit(address("10.0.0.2")).unwrap());
        places.pop();
        let again = budget.admit(address("10.0.0.1"));
        assert!(again.is_ok());
        drop((places, again));
        assert_eq!(budget.open().total, 0);
        assert!(
            budget.open().of_address.is_empty(),
            "nothing is remembered of them"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let budget = Budget::new(256);
        let places: Vec<_> = (0..16)
            .map(|host| budget.admit(address(&format!("fd00::{host:x}"))))
            .collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(budget.admit(address("fd00::ff")).is_err());
        assert!(budget.admit(address("fd00:0:0:1::ff")).is_ok());
    }

    #[test]
    fn the_rest_is_for_members() {
        let budget = Budget::new(256);
        budget.set_members([address("10.9.0.1")]);
        let mut places = Vec::new();
        for host in 0..48 {
            places.push(budget.admit(address(&format!("10.0.1.{host}"))).unwrap());
        }
        assert_eq!(
            budget.admit(address("10.0.2.1")).unwrap_err(),
            Refusal::KeptForMembers(48)
        );
        for _ in 0..16 {
            places.push(budget.admit(address("10.9.0.1")).unwrap());
        }
        assert_eq!(
            budget.admit(address("10.9.0.1")).unwrap_err(),
            Refusal::OneAddress(16)
        );
        budget.set_members([address("10.9.0.2")]);
        assert_eq!(budget.admit(address("10.9.0.2")).unwrap_err(), Refusal::Full(64));
    }
}
