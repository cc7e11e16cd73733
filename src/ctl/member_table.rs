//! The table of `list` and `topology`: what the keys of a cluster look like to a person or a script.

use std::collections::{BTreeMap, BTreeSet};

use config::{DynamicConfig, SynchronousMode, escape};
use ha::cascade::Cascade;
use ha::cluster::{Cluster, Member, MemberData};
use ha::pg::{Lsn, MemberName, ReplicationState, Role, ServerState};

use super::remarks::Remark;
use super::schedule::offset_time;
use super::table::{Cell, Column, Format, Table};
use super::view::{View, dynamic_config};

/// The longest reason for a restart that the grids show.
const REASON_WIDTH_MAX: usize = 50;
const BYTES_PER_MEBIBYTE: u64 = 1024 * 1024;

/// The members of `view` as a table, and for the grids what there is to say about the cluster below it.
pub(crate) fn render(view: &View, cluster_name: &str, format: Format, extended: bool) -> String {
    let mut text = table(view, cluster_name, format, extended).render(format);
    if format.is_grid() {
        for (group, cluster) in &view.groups {
            let mut lines = service_lines(cluster);
            lines.extend(remark_lines(view, *group));
            if !lines.is_empty() && view.is_citus && view.group.is_none() {
                text.push_str(&format!("Citus group: {group}\n"));
            }
            text.extend(lines);
        }
    }
    text
}

fn table(view: &View, cluster_name: &str, format: Format, extended: bool) -> Table {
    let columns = columns(view, format, extended);
    let title_details = title_details(view);
    let title = match (view.is_citus, view.group) {
        (true, Some(group)) => format!(" Citus cluster: {cluster_name} (group: {group}, {title_details}) "),
        (true, None) => format!(" Citus cluster: {cluster_name} "),
        (false, _) => format!(" Cluster: {cluster_name} ({title_details}) "),
    };
    let shows_ports = shows_ports(view);
    let mut rows = Vec::new();
    for (group, cluster) in &view.groups {
        let config = dynamic_config(Some(cluster));
        let places = if format == Format::Topology {
            topology(cluster)
        } else {
            plain_order(cluster)
        };
        for (label, member) in places {
            let row = Row {
                cluster_name,
                group: *group,
                label,
                cluster,
                config: &config,
                member,
                remark: view
                    .remarks
                    .iter()
                    .find(|remark| remark.group == *group && remark.member == member.name),
                shows_ports,
                format,
            };
            rows.push(columns.iter().map(|column| row.cell(*column)).collect());
        }
    }
    let is_grid = format.is_grid();
    Table {
        title: Some(title),
        columns: columns.iter().map(|column| column.heading(is_grid)).collect(),
        rows,
        omits_empty_cells: true,
        cuts_long_cells: true,
    }
}

/// The columns in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Cluster,
    Group,
    Member,
    Host,
    Role,
    State,
    Timeline,
    ReceiveLsn,
    ReceiveLag,
    ReplayLsn,
    ReplayLag,
    PendingRestart,
    PendingRestartReason,
    ScheduledRestart,
    Tags,
    /// Only for programs: people read it below the grid.
    Reason,
}

impl Field {
    const ALWAYS: [Self; 9] = [
        Self::Member,
        Self::Host,
        Self::Role,
        Self::State,
        Self::Timeline,
        Self::ReceiveLsn,
        Self::ReceiveLag,
        Self::ReplayLsn,
        Self::ReplayLag,
    ];

    /// Shown when some member has a value for it.
    const OPTIONAL: [Self; 4] = [
        Self::PendingRestart,
        Self::PendingRestartReason,
        Self::ScheduledRestart,
        Self::Tags,
    ];

    fn is_used_by(self, data: &MemberData) -> bool {
        match self {
            Self::PendingRestart => data.pending_restart,
            Self::PendingRestartReason => !data.pending_restart_reason.is_empty(),
            Self::ScheduledRestart => data.scheduled_restart.is_some(),
            Self::Tags => !data.tags.0.is_empty(),
            Self::Reason => false,
            Self::Cluster
            | Self::Group
            | Self::Member
            | Self::Host
            | Self::Role
            | Self::State
            | Self::Timeline
            | Self::ReceiveLsn
            | Self::ReceiveLag
            | Self::ReplayLsn
            | Self::ReplayLag => true,
        }
    }

    fn heading(self, is_grid: bool) -> Column {
        match self {
            Self::Cluster => Column::left("Cluster"),
            Self::Group => Column::right("Group"),
            Self::Member => Column::left("Member"),
            Self::Host => Column::left("Host"),
            Self::Role => Column::left("Role"),
            Self::State => Column::left("State"),
            Self::Timeline => Column::right("TL"),
            Self::ReceiveLsn => Column::right("Receive LSN"),
            Self::ReplayLsn => Column::right("Replay LSN"),
            Self::ReceiveLag | Self::ReplayLag if is_grid => Column::right("Lag"),
            Self::ReceiveLag => Column::right("Receive Lag"),
            Self::ReplayLag => Column::right("Replay Lag"),
            Self::PendingRestart => Column::left("Pending restart"),
            Self::PendingRestartReason => Column::left("Pending restart reason"),
            Self::ScheduledRestart => Column::left("Scheduled restart"),
            Self::Tags => Column::left("Tags"),
            Self::Reason => Column::left("Reason"),
        }
    }
}

fn columns(view: &View, format: Format, extended: bool) -> Vec<Field> {
    let mut fields = Vec::new();
    if !format.is_grid() {
        fields.push(Field::Cluster);
    }
    // With a group the title of a grid names it already.
    if view.is_citus && !(format.is_grid() && view.group.is_some()) {
        fields.push(Field::Group);
    }
    fields.extend(Field::ALWAYS);
    for field in Field::OPTIONAL {
        if extended || located(view).any(|(member, ..)| field.is_used_by(&member.data)) {
            fields.push(field);
        }
    }
    if !format.is_grid() && !view.remarks.is_empty() {
        fields.push(Field::Reason);
    }
    fields
}

/// The members whose host is known.
fn located(view: &View) -> impl Iterator<Item = (&Member, String, u16)> {
    let members = view.groups.values().flat_map(|cluster| &cluster.members);
    members.filter_map(|member| {
        member
            .data
            .host_and_port()
            .map(|(host, port)| (member, host, port))
    })
}

/// Ports are shown when one is not PostgreSQL's usual, or when two members are on one host.
fn shows_ports(view: &View) -> bool {
    let mut hosts = BTreeSet::new();
    located(view).any(|(_, host, port)| port != 5432 || !hosts.insert(host))
}

fn title_details(view: &View) -> &str {
    match view.cluster().and_then(|cluster| cluster.initialize.as_deref()) {
        None => "uninitialized",
        Some("") => "initializing",
        Some(identifier) => identifier,
    }
}

fn plain_order(cluster: &Cluster) -> Vec<(String, &Member)> {
    let mut members: Vec<_> = cluster.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
        .into_iter()
        .map(|member| (member.name.0.clone(), member))
        .collect()
}

/// The leader, and below each member those that stream from it. A loop of `replicatefrom` is broken at one member, which streams
/// from the leader, and the loop is shown there.
fn topology(cluster: &Cluster) -> Vec<(String, &Member)> {
    let leader = cluster.leader_member();
    let cascade = Cascade::new(cluster);
    let mut children: BTreeMap<Option<&MemberName>, Vec<&Member>> = BTreeMap::new();
    for member in &cluster.members {
        if cluster.is_leader(&member.name) {
            continue;
        }
        let parent = cascade
            .instead_of_leader(&member.name)
            .filter(|parent| !cluster.is_leader(&parent.name));
        children
            .entry(parent.or(leader).map(|parent| &parent.name))
            .or_default()
            .push(member);
    }
    let mut places = Vec::new();
    if let Some(leader) = leader {
        places.push((leader.name.0.clone(), leader));
    }
    push_children(
        &mut places,
        (&cascade, &children),
        leader.map(|leader| &leader.name),
        0,
    );
    places
}

fn push_children<'a>(
    places: &mut Vec<(String, &'a Member)>,
    (cascade, children): (&Cascade<'_>, &BTreeMap<Option<&MemberName>, Vec<&'a Member>>),
    parent: Option<&MemberName>,
    depth: usize,
) {
    for member in children.get(&parent).into_iter().flatten() {
        let broken = cascade.broken_loop(&member.name).map_or_else(String::new, |all| {
            let names: Vec<&str> = all.iter().map(|name| name.as_str()).collect();
            format!(" (replicatefrom loop: {})", names.join(", "))
        });
        places.push((
            format!("{}+ {}{broken}", "  ".repeat(depth), member.name),
            *member,
        ));
        push_children(places, (cascade, children), Some(&member.name), depth + 1);
    }
}

/// One member, and what is needed to describe it.
struct Row<'a> {
    cluster_name: &'a str,
    group: u32,
    label: String,
    cluster: &'a Cluster,
    config: &'a DynamicConfig,
    member: &'a Member,
    remark: Option<&'a Remark>,
    shows_ports: bool,
    format: Format,
}

impl Row<'_> {
    fn cell(&self, field: Field) -> Cell {
        let data = &self.member.data;
        match field {
            Field::Cluster => Cell::text(self.cluster_name),
            Field::Group => Cell::Number(self.group.into()),
            Field::Member => Cell::text(&self.label),
            Field::Host => Cell::text(self.host()),
            Field::Role => Cell::text(self.role()),
            Field::State => Cell::text(self.state()),
            Field::Timeline => data
                .timeline
                .map_or(Cell::empty(), |timeline| Cell::Number(timeline.0.into())),
            Field::ReceiveLsn => self.lsn(self.positions().0),
            Field::ReceiveLag => self.lag(self.positions().0),
            Field::ReplayLsn => self.lsn(self.positions().1),
            Field::ReplayLag => self.lag(self.positions().1),
            Field::PendingRestart => Cell::text(if data.pending_restart { "*" } else { "" }),
            Field::PendingRestartReason => Cell::Lines(self.pending_restart_reason()),
            Field::ScheduledRestart => Cell::text(scheduled_restart(data)),
            Field::Tags if data.tags.0.is_empty() => Cell::empty(),
            Field::Tags => Cell::Mapping(data.tags.0.clone()),
            Field::Reason => Cell::text(self.remark.map_or("", |remark| &remark.reason)),
        }
    }

    fn is_leader(&self) -> bool {
        self.cluster.is_leader(&self.member.name)
    }

    fn host(&self) -> String {
        match self.member.data.host_and_port() {
            Some((host, port)) if self.shows_ports => format!("{host}:{port}"),
            Some((host, _)) => host,
            None => String::new(),
        }
    }

    /// What the server is by its own word, where that differs from its key.
    fn own_word(&self) -> Option<(Role, ServerState)> {
        self.remark.and_then(|remark| remark.server)
    }

    fn role(&self) -> &'static str {
        if self.own_word().is_some() {
            return "Replica";
        }
        let is_standby_cluster = self.config.standby_cluster.is_some();
        let is_voter = self.cluster.sync.lists(&self.member.name, false);
        match self.config.synchronous_mode() {
            _ if self.is_leader() && is_standby_cluster => "Standby Leader",
            _ if self.is_leader() => "Leader",
            SynchronousMode::On if is_voter => "Sync Standby",
            SynchronousMode::Quorum if is_voter => "Quorum Standby",
            SynchronousMode::Off | SynchronousMode::On | SynchronousMode::Quorum => "Replica",
        }
    }

    fn state(&self) -> &'static str {
        if let Some((_, state)) = self.own_word() {
            return state.as_str();
        }
        let data = &self.member.data;
        let is_primary = self.is_leader() && self.config.standby_cluster.is_none();
        let replication = data
            .replication_state
            .filter(|_| !is_primary)
            .map(ReplicationState::as_str);
        replication
            .or(data.state.map(ServerState::as_str))
            .unwrap_or_default()
    }

    /// What the member has received and replayed. Older agents publish one position for both: it counts as received
    /// while the member streams, as replayed otherwise.
    fn positions(&self) -> (Option<Lsn>, Option<Lsn>) {
        let data = &self.member.data;
        let some = |lsn: Option<Lsn>| lsn.filter(|lsn| *lsn > Lsn::ZERO);
        match (
            some(data.receive_lsn),
            some(data.replay_lsn),
            some(data.xlog_location),
        ) {
            (None, None, both) if self.state() == ReplicationState::Streaming.as_str() => (both, None),
            (None, None, both) => (None, both),
            (received, replayed, _) => (received, replayed),
        }
    }

    fn lsn(&self, lsn: Option<Lsn>) -> Cell {
        if self.is_leader() {
            return Cell::empty();
        }
        Cell::text(lsn.map_or("unknown".to_owned(), |lsn| lsn.to_string()))
    }

    fn lag(&self, lsn: Option<Lsn>) -> Cell {
        match lsn {
            Some(lsn) if !self.is_leader() => {
                let optime = self.cluster.status.optime.unwrap_or_default();
                Cell::Number(mebibytes(lsn.behind(optime)))
            }
            Some(_) | None => Cell::empty(),
        }
    }

    fn pending_restart_reason(&self) -> String {
        let reasons = self
            .member
            .data
            .pending_restart_reason
            .iter()
            .map(|(name, reason)| {
                let full = format!("{name}: {}->{}", reason.old_value, reason.new_value);
                let full = escape::line(&full).into_owned();
                if self.format.is_grid() && full.chars().count() > REASON_WIDTH_MAX {
                    format!("{name}: [hidden - too long]")
                } else {
                    full
                }
            });
        let mut lines: Vec<String> = reasons.collect();
        let errors = self.member.data.pending_restart_reason.values();
        let errors: BTreeSet<&str> = errors.filter_map(|reason| reason.error.as_deref()).collect();
        lines.extend(errors.iter().map(|error| format!("restart failed: {error}")));
        lines.join("\n")
    }
}

/// Rounded to the nearest, halves to the even number.
fn mebibytes(bytes: u64) -> u64 {
    let (whole, rest) = (bytes / BYTES_PER_MEBIBYTE, bytes % BYTES_PER_MEBIBYTE);
    let half = BYTES_PER_MEBIBYTE / 2;
    whole + u64::from(rest > half || (rest == half && whole % 2 == 1))
}

fn scheduled_restart(data: &MemberData) -> String {
    let text = |key: &str| {
        let value = data.scheduled_restart.as_ref()?.0.get(key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    match (text("schedule"), text("postgres_version")) {
        (Some(time), Some(version)) => format!("{time} if version < {version}"),
        (time, _) => time.unwrap_or_default(),
    }
}

/// What members have said beside their keys, as lines that begin with a blank.
fn remark_lines(view: &View, group: u32) -> impl Iterator<Item = String> {
    let own = view.remarks.iter().filter(move |remark| remark.group == group);
    own.map(|remark| {
        let state = match remark.server {
            Some((role, state)) => format!("{role}, {state}: "),
            None => remark.label.to_owned(),
        };
        format!(" {}: {state}{}\n", remark.member, remark.reason)
    })
}

/// What a person should know about the cluster, as lines that begin with a blank.
fn service_lines(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    if dynamic_config(Some(cluster)).pause {
        lines.push(" Maintenance mode: on\n".to_owned());
    }
    let Some(failover) = &cluster.failover else {
        return lines;
    };
    if let Some(time) = &failover.scheduled_at_text {
        lines.push(format!(
            " Switchover scheduled at: {}\n",
            escape::line(&offset_time(time))
        ));
        for (label, name) in [("from", &failover.leader), ("to", &failover.candidate)] {
            lines.extend(
                name.iter()
                    .map(|name| format!("{label:>24}: {}\n", escape::line(name.as_str()))),
            );
        }
    }
    lines
}

#[cfg(test)]
mod tests;
