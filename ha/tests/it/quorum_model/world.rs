//! The cluster that the model checker looks at: who has which WAL, what was acknowledged, and what the key `sync` says.
//!
//! Millions of states are looked at. They are kept small, and get the program's types where the program is asked.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use tamada_ha::pg::MemberName;
use tamada_ha::quorum::{Change, Claim};
use tamada_ha::standby_names::{Method, StandbyNames};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A member by its place in [`NAMES`].
pub(super) type Place = usize;

/// Members as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Members(pub(super) u8);

impl Members {
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let place = (rest != 0).then(|| rest.trailing_zeros() as Place);
            rest &= rest.wrapping_sub(1);
            place
        })
    }

    pub(super) fn names(self) -> BTreeSet<MemberName> {
        self.places().map(|place| NAMES[place].into()).collect()
    }

    pub(super) fn count(self) -> usize {
        self.places().count()
    }

    pub(super) fn has(self, place: Place) -> bool {
        self.0 & 1 << place != 0
    }

    pub(super) fn with(self, place: Place) -> Self {
        Self(self.0 | 1 << place)
    }

    pub(super) fn without(self, place: Place) -> Self {
        Self(self.0 & !(1 << place))
    }
}

impl FromIterator<Place> for Members {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        places.into_iter().fold(Self::default(), Self::with)
    }
}

impl<'a> FromIterator<&'a MemberName> for Members {
    fn from_iter<I: IntoIterator<Item = &'a MemberName>>(names: I) -> Self {
        let place = |name: &MemberName| NAMES.iter().position(|known| *known == name.as_str()).unwrap();
        names.into_iter().map(place).collect()
    }
}

/// [`StandbyNames`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Setting {
    method: Method,
    number: usize,
    pub(super) members: Members,
}

impl Setting {
    fn new(method: Method, number: usize, members: Members) -> Self {
        Self {
            method,
            number,
            members,
        }
    }

    pub(super) fn of(names: &StandbyNames) -> Self {
        Self::new(names.method, names.number, names.names.iter().collect())
    }

    pub(super) fn names(self) -> StandbyNames {
        StandbyNames {
            method: self.method,
            number: self.number,
            names: self.members.names(),
        }
    }
}

/// [`Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Published {
    pub(super) voters: Members,
    pub(super) quorum: usize,
}

impl Published {
    pub(super) fn claim(self) -> Claim {
        Claim {
            voters: self.voters.names(),
            quorum: self.quorum,
        }
    }
}

/// WAL, a byte for each record: its timeline, and in the lower half who has begun that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wal(u64);

impl Wal {
    pub(super) fn length(self) -> u32 {
        (u64::BITS - self.0.leading_zeros()).div_ceil(8)
    }

    fn last(self) -> u64 {
        self.0 & 0xff
    }

    fn timeline(self) -> u64 {
        self.last() >> 4
    }

    /// What tells the timeline from another one of that number; nothing does with the first one.
    fn nonce(self) -> Option<u64> {
        (self.timeline() > 1).then_some(self.last() & 0xf)
    }

    fn first(self, length: u32) -> Self {
        Self(self.0 >> (8 * (self.length() - length)))
    }

    fn starts_with(self, other: Self) -> bool {
        self.length() >= other.length() && self.first(other.length()) == other
    }

    fn begin(self, timeline: u64, begun_by: Place) -> Self {
        Self(self.0 << 8 | timeline << 4 | begun_by as u64)
    }

    fn go_on(self) -> Self {
        Self(self.0 << 8 | self.last())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Nobody holds the leader key.
    Leaderless,
    /// Who wrote the key `sync` last holds it.
    Elected,
    /// And is promoted.
    Led,
}

/// How much may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Left {
    /// Records that are written.
    pub(super) records: u8,
    /// What is wanted changes.
    pub(super) wishes: u8,
    /// Leaders crash.
    pub(super) crashes: u8,
}

/// What is asked of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) published: Published,
    pub(super) setting: Setting,
    /// Who is seen to have all that was acknowledged before the setting.
    pub(super) reached: Members,
    pub(super) wanted: Wanted,
}

/// What it shall arrive at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) setting: Setting,
    pub(super) counts_votes: bool,
}

/// A cluster of `N` members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize> {
    pub(super) wal: [Wal; N],
    pub(super) up: Members,
    /// Not to be waited for: what does not stream, or is about to leave.
    pub(super) away: Members,
    pub(super) phase: Phase,
    /// Who wrote the key `sync`, and what it says.
    pub(super) leader: Place,
    pub(super) published: Published,
    pub(super) setting: Setting,
    /// The setting that some of the primary's processes may still have.
    pub(super) before: Option<Setting>,
    /// Where the primary was when the setting was in force for certain.
    pub(super) since: Option<u32>,
    /// All that somebody was told to be committed.
    acknowledged: Wal,
    /// `synchronous_node_count`.
    pub(super) number: usize,
    /// `synchronous_mode` is `quorum`, not `on`.
    pub(super) by_quorum: bool,
    /// How many changes the primary has made since something else was wanted.
    pub(super) changes: u8,
    pub(super) left: Left,
}

impl<const N: usize> State<N> {
    /// The first member is the primary, and nobody is waited for yet.
    pub(super) fn new(left: Left, away: Members, number: usize, by_quorum: bool) -> Self {
        let wal = Wal(0).begin(1, 0);
        Self {
            wal: [wal; N],
            up: (0..N).collect(),
            away,
            phase: Phase::Led,
            leader: 0,
            published: Published::default(),
            setting: Setting::default(),
            before: None,
            since: None,
            acknowledged: wal,
            number,
            by_quorum,
            changes: 0,
            left,
        }
    }

    pub(super) fn leads(&self, place: Place) -> bool {
        self.leader == place && self.phase != Phase::Leaderless
    }

    pub(super) fn lacks_something(&self, place: Place) -> bool {
        !self.wal[place].starts_with(self.acknowledged)
    }

    /// The standbys that stream from the primary.
    pub(super) fn streaming(&self) -> Members {
        let is_led = self.phase == Phase::Led;
        let follows = |place: &Place| is_led && self.wal[self.leader].starts_with(self.wal[*place]);
        self.up.without(self.leader).places().filter(follows).collect()
    }

    /// What to arrive at, as `decide/synchronous.rs` chooses it.
    pub(super) fn wanted(&self) -> Wanted {
        let there = self.streaming().0 & !self.away.0;
        let now = self.setting.members.0;
        let best_first = Members(there & now)
            .places()
            .chain(Members(there & !now).places());
        let number = self.number.min(Members(there).count());
        let setting = match (number, self.by_quorum) {
            (0, _) => Setting::default(),
            (_, true) => Setting::new(Method::Any, number, Members(there)),
            (_, false) => Setting::new(Method::First, number, best_first.take(number).collect()),
        };
        Wanted {
            setting,
            counts_votes: self.by_quorum,
        }
    }

    pub(super) fn asked(&self) -> Asked {
        let waited_for = Members(self.streaming().0 & self.setting.members.0);
        let is_past = |place: &Place| self.since.is_some_and(|since| self.wal[*place].length() >= since);
        Asked {
            published: self.published,
            setting: self.setting,
            reached: waited_for.places().filter(is_past).collect(),
            wanted: self.wanted(),
        }
    }

    /// Acknowledges all that the processes of the primary may release. What waits was written on its own timeline: a
    /// commit that waited when a primary crashed is answered by nobody.
    pub(super) fn release(&mut self) {
        if self.phase != Phase::Led {
            return;
        }
        let (now, before) = (self.setting, self.before.unwrap_or(self.setting));
        // By priority a standby releases commits only when it is itself waited for.
        let mixed = match (now.method, before.method) {
            (Method::First, Method::First) => now,
            (Method::Any, _) | (_, Method::Any) => Setting::new(
                Method::Any,
                now.number.min(before.number),
                Members(now.members.0 | before.members.0),
            ),
        };
        let (wal, streaming) = (self.wal[self.leader], self.streaming());
        let has = |place: &Place, length| self.wal[*place].length() >= length;
        let is_released = |setting: Setting, length| {
            let standbys = Members(streaming.0 & setting.members.0).places();
            standbys.filter(|place| has(place, length)).count() >= setting.number
        };
        let is_own = |length: &u32| wal.first(*length).last() == wal.last();
        for length in (self.acknowledged.length() + 1..=wal.length()).filter(is_own) {
            let mut settings = [now, before, mixed].into_iter();
            if settings.any(|setting| is_released(setting, length)) {
                self.acknowledged = wal.first(length);
            }
        }
    }

    pub(super) fn write(&mut self) {
        self.wal[self.leader] = self.wal[self.leader].go_on();
    }

    /// One more record; what has parted from the primary is rewound.
    pub(super) fn receive(&mut self, place: Place) {
        let (wal, mine) = (self.wal[self.leader], self.wal[place]);
        self.wal[place] = match wal.starts_with(mine) {
            true => wal.first(wal.length().min(mine.length() + 1)),
            false => wal,
        };
    }

    pub(super) fn settle(&mut self) {
        self.before = None;
        self.since.get_or_insert(self.wal[self.leader].length());
    }

    /// `None` when the setting before has to be in force first.
    pub(super) fn change(&mut self, next: &Change) -> Option<()> {
        match next {
            Change::Arm(_) if self.before.is_some() => return None,
            Change::Arm(names) => self.arm(Setting::of(names), Some(self.setting)),
            Change::Publish(claim) => {
                let (voters, quorum) = (claim.voters.iter().collect(), claim.quorum);
                self.published = Published { voters, quorum };
            }
        }
        self.changes += 1;
        Some(())
    }

    fn arm(&mut self, setting: Setting, before: Option<Setting>) {
        (self.setting, self.before, self.since) = (setting, before, None);
    }

    pub(super) fn crash(&mut self) {
        self.up = self.up.without(self.leader);
        self.phase = Phase::Leaderless;
        self.changes = 0;
        self.arm(Setting::default(), None);
    }

    pub(super) fn elect(&mut self, place: Place, published: Option<Published>, setting: Setting) {
        self.published = published.unwrap_or(self.published);
        (self.leader, self.phase) = (place, Phase::Elected);
        self.arm(setting, None);
    }

    /// Begins a timeline. Of what others have begun it knows nothing.
    pub(super) fn promote(&mut self) {
        let mine = self.wal[self.leader];
        self.wal[self.leader] = mine.begin(mine.timeline() + 1, self.leader);
        self.phase = Phase::Led;
    }

    /// What a member knows in a race, in the language of the scenarios.
    pub(super) fn scenario(&self, me: Place, by_quorum: bool, tell_origins: bool) -> String {
        let mode = if by_quorum { "quorum" } else { "on" };
        let listed = self.published.voters.places().map(|place| NAMES[place]);
        let listed: Vec<&str> = std::iter::once(NAMES[self.leader]).chain(listed).collect();
        let (listed, quorum) = (listed.join(","), self.published.quorum);
        let mut text = format!("me {}\nremember known replica running\n", NAMES[me]);
        writeln!(text, "config synchronous_mode={mode}").unwrap();
        write!(text, "cluster sync={listed} quorum={quorum}").unwrap();
        for (place, (name, wal)) in NAMES.iter().zip(&self.wal).enumerate() {
            let mut shown = format!("replica {} tl={}", wal.length(), wal.timeline());
            if let Some(nonce) = wal.nonce().filter(|_| tell_origins) {
                write!(shown, " origin={nonce}").unwrap();
            }
            write!(text, "\nmember {name} {shown}").unwrap();
            if place == me {
                write!(text, "\nserver {shown}").unwrap();
            } else if self.up.has(place) {
                write!(text, "\npeer {name} {shown}").unwrap();
            }
        }
        text
    }
}
