//! The live view of a terminal: a pure function of the snapshot and the window's size.

mod text;

use std::collections::BTreeSet;

use minitunnel_model::{
    Conflict, GroupState, LoadBalancer, Owner, ProfileName, ProfileStatus, Reach, RouteGroup,
    Snapshot, TargetState, Timestamp, TunnelState, WaitingFor,
};

pub(crate) use text::{Line, Span, Style, width};
use text::{ago, clip, column, span, wrap};

/// What a view is drawn on and for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Columns of the window.
    pub(crate) width: usize,
    /// Lines of the window.
    pub(crate) height: usize,
    pub(crate) now: Timestamp,
    /// The profiles to show; `None` for all.
    pub(crate) only: Option<&'a BTreeSet<ProfileName>>,
    /// What Ctrl-C does.
    pub(crate) hint: &'a str,
}

/// Where the tables begin, below their names; a narrow window has no room for those.
const GUTTER: usize = 12;
const NARROW: usize = 60;
const INDENT: usize = 2;
/// Between two columns.
const GAP: usize = 2;

/// One profile's part.
#[derive(Default)]
struct Part {
    lines: Vec<Line>,
    /// What gives way where the window is too low.
    services: Vec<Line>,
    /// How many services wait for an address.
    pending: usize,
    /// What follows the services.
    rest: Vec<Line>,
}

/// What is, in at most `height` lines of at most `width` columns.
pub(crate) fn view(snapshot: &Snapshot, frame: &Frame<'_>) -> Vec<Line> {
    let shown = |name: &ProfileName| frame.only.is_none_or(|only| only.contains(name));
    let statuses = snapshot.profiles.iter();
    let statuses: Vec<_> = statuses
        .filter(|status| shown(&status.profile.name))
        .collect();
    let mut parts: Vec<Part> = statuses.iter().map(|status| part(status, frame)).collect();
    for name in snapshot.awaited.iter().filter(|name| shown(name)) {
        let state = [span(Style::Busy, "gone")];
        let mut lines = vec![head(Style::Busy, name.as_str(), state)];
        lines.extend(sentence("its tunnel comes up again when it is back", frame));
        parts.push(Part {
            lines,
            ..Part::default()
        });
    }
    for broken in snapshot.broken.iter().filter(|_| frame.only.is_none()) {
        let mut lines = vec![head(
            Style::Bad,
            &broken.name,
            [span(Style::Bad, "can't be read")],
        )];
        lines.extend(sentence(&broken.problem, frame));
        parts.push(Part {
            lines,
            ..Part::default()
        });
    }
    if let Some(part) = leftovers(snapshot, frame) {
        parts.push(part);
    }
    if parts.is_empty() {
        let home = snapshot.home.display();
        let none = format!(
            "no minikube profile in {home}: `minikube start` makes one, `minitunnel demo` needs none"
        );
        let lines = sentence(&none, frame);
        parts.push(Part {
            lines,
            ..Part::default()
        });
    }
    let mut lines = vec![title(&statuses, frame), Line::new()];
    lines.extend(fit(parts, frame.height.saturating_sub(lines.len())));
    let mut lines: Vec<Line> = lines
        .into_iter()
        .map(|line| clip(line, frame.width))
        .collect();
    if lines.len() > frame.height {
        let more = lines.len() - frame.height + 1;
        lines.truncate(frame.height.saturating_sub(1));
        lines.push(clip(
            vec![span(Style::Dim, &format!("… {more} more lines"))],
            frame.width,
        ));
    }
    lines
}

fn title(statuses: &[&ProfileStatus], frame: &Frame<'_>) -> Line {
    let is_up = |status: &&&ProfileStatus| matches!(status.tunnel, TunnelState::Connected { .. });
    let up = statuses.iter().filter(is_up).count();
    let count = match (up, statuses.len()) {
        (0, _) => "no tunnel is up".to_owned(),
        (1, 1) => "the tunnel is up".to_owned(),
        (up, all) => format!("{up} of {all} tunnels up"),
    };
    let mut line = vec![
        span(Style::Bold, "minitunnel"),
        span(Style::Dim, &format!("  {count}")),
    ];
    let used = width(&line) + width(&[span(Style::Dim, frame.hint)]);
    if used + GAP <= frame.width {
        let space = " ".repeat(frame.width - used);
        line.push(span(Style::Dim, &(space + frame.hint)));
    }
    line
}

fn part(status: &ProfileStatus, frame: &Frame<'_>) -> Part {
    let (style, word, why) = state(status);
    let mut after = vec![span(style, word)];
    if let TunnelState::Connected { since } = status.tunnel {
        after.push(span(Style::Dim, &format!(" {}", ago(since, frame.now))));
    }
    after.push(span(Style::Dim, &format!("  {}", status.profile.driver)));
    let mut part = Part {
        lines: vec![head(style, status.profile.name.as_str(), after)],
        ..Part::default()
    };
    if let Some(why) = why {
        part.lines.extend(sentence(&why, frame));
    }
    part.lines.extend(routes(status, frame));
    let cells: Vec<_> = services(status);
    part.services = table("services", &cells, frame);
    let waits = |lb: &&std::sync::Arc<LoadBalancer>| lb.pending.is_some();
    part.pending = status.load_balancers.iter().filter(waits).count();
    for tunnel in &status.minikube_tunnels {
        let row = vec![span(Style::Busy, &tunnel.to_string())];
        part.rest.extend(table("minikube", &[row], frame));
    }
    part
}

/// What nobody serves any more, of all profiles.
fn leftovers(snapshot: &Snapshot, frame: &Frame<'_>) -> Option<Part> {
    if snapshot.leftovers.is_empty() || frame.only.is_some() {
        return None;
    }
    let state = [span(
        Style::Busy,
        "`minitunnel cleanup` removes them, if you want",
    )];
    let mut lines = vec![head(Style::Busy, "leftovers", state)];
    for item in &snapshot.leftovers {
        lines.extend(sentence(&item.to_string(), frame));
    }
    Some(Part {
        lines,
        ..Part::default()
    })
}

/// The state's colour, its word, and the sentence that belongs to it.
fn state(status: &ProfileStatus) -> (Style, &'static str, Option<String>) {
    match &status.tunnel {
        TunnelState::Connected { .. } => (Style::Good, "connected", None),
        TunnelState::Connecting => (Style::Busy, "connecting", None),
        TunnelState::Disconnecting => (Style::Busy, "disconnecting", None),
        TunnelState::Waiting { on } => {
            let why = match on {
                WaitingFor::Cluster { reason } => format!("for the cluster: {reason}"),
                other => other.to_string(),
            };
            (Style::Busy, "waiting", Some(why))
        }
        // The conflicts are told beside their routes.
        TunnelState::Blocked { .. } => (Style::Bad, "blocked", None),
        TunnelState::Failed { cause, .. } => {
            (Style::Bad, "failed", Some(cause.message().to_owned()))
        }
        TunnelState::Disconnected => {
            let why = match &status.profile.reach {
                Reach::Forwarded { reason } | Reach::Unsupported { reason } => Some(reason.clone()),
                Reach::Routed | Reach::Local => match &status.cluster {
                    minitunnel_model::ClusterState::Stopped { reason }
                        if status.target == TargetState::Down =>
                    {
                        Some(format!("cluster stopped: {reason}"))
                    }
                    _ => None,
                },
            };
            (Style::Dim, "disconnected", why)
        }
    }
}

fn head(style: Style, name: &str, state: impl IntoIterator<Item = Span>) -> Line {
    let mark = match style {
        Style::Dim | Style::Plain => "○ ",
        Style::Bad => "✗ ",
        Style::Good | Style::Busy | Style::Bold => "● ",
    };
    let mut line = vec![
        span(style, mark),
        span(Style::Bold, name),
        span(Style::Plain, "  "),
    ];
    line.extend(state);
    line
}

fn sentence(text: &str, frame: &Frame<'_>) -> Vec<Line> {
    let room = frame.width.saturating_sub(INDENT);
    let lines = wrap(text, room).into_iter();
    lines
        .map(|line| {
            vec![
                span(Style::Plain, &" ".repeat(INDENT)),
                span(Style::Plain, &line),
            ]
        })
        .collect()
}

fn routes(status: &ProfileStatus, frame: &Frame<'_>) -> Vec<Line> {
    let mut rows = Vec::new();
    // By row: what is to be said below it.
    let mut below: Vec<(usize, &[Conflict])> = Vec::new();
    for group in &status.groups {
        rows.extend(route_rows(group));
        if let Some(last) = rows.len().checked_sub(1) {
            below.push((last, group.conflicts()));
        }
    }
    let mut lines = Vec::new();
    for (index, line) in table("routes", &rows, frame).into_iter().enumerate() {
        lines.push(line);
        let told = below.iter().filter(|(row, _)| *row == index);
        for conflict in told.flat_map(|(_, conflicts)| *conflicts) {
            lines.extend(explained(conflict, frame));
        }
    }
    lines
}

fn route_rows(group: &RouteGroup) -> Vec<Line> {
    let what = group.kind.to_string();
    let (style, note) = match &group.state {
        GroupState::Held { conflicts } if conflicts.is_empty() => (Style::Plain, String::new()),
        GroupState::Held { .. } | GroupState::Conflicting { .. } => (Style::Bad, "conflict".into()),
        GroupState::Free => (Style::Dim, "not routed".into()),
        GroupState::LeftOut { reason } => (Style::Busy, reason.clone()),
    };
    let note = span(
        if style == Style::Plain {
            Style::Dim
        } else {
            style
        },
        &note,
    );
    if group.routes.is_empty() {
        return vec![vec![
            span(Style::Dim, "-"),
            span(Style::Dim, "-"),
            span(Style::Dim, &what),
            note,
        ]];
    }
    let row = |route: &minitunnel_model::Route| {
        vec![
            span(style, &route.destination.to_string()),
            span(Style::Plain, &route.gateway.to_string()),
            span(Style::Dim, &what),
            note.clone(),
        ]
    };
    group.routes.iter().map(row).collect()
}

fn explained(conflict: &Conflict, frame: &Frame<'_>) -> Vec<Line> {
    let left = gutter(frame);
    let mut lines = Vec::new();
    let mut tell = |mark: &str, style, text: &str| {
        let room = frame.width.saturating_sub(left + 2);
        for (index, line) in wrap(text, room).into_iter().enumerate() {
            let mark = if index == 0 { mark } else { "  " };
            let lead = " ".repeat(left) + mark;
            lines.push(vec![span(style, &lead), span(style, &line)]);
        }
    };
    tell("  ", Style::Bad, &conflict.effect);
    for way in &conflict.ways_out {
        tell("→ ", Style::Plain, &way.to_string());
    }
    lines
}

fn services(status: &ProfileStatus) -> Vec<Line> {
    let stale: Vec<_> = status.stale().map(|lb| &lb.key).collect();
    let row = |lb: &LoadBalancer| {
        let ports: Vec<String> = lb.ports.iter().map(ToString::to_string).collect();
        let note = match (&lb.pending, &lb.owner) {
            _ if stale.contains(&&lb.key) => {
                span(Style::Bad, "stale: `minitunnel cleanup` withdraws it")
            }
            (Some(pending), _) => span(Style::Busy, &pending.to_string()),
            (None, Owner::Us) => span(Style::Dim, &lb.took().unwrap_or_default()),
            (None, Owner::Other(manager)) => span(Style::Dim, &format!("by {manager}")),
            (None, Owner::Nobody) => span(Style::Dim, ""),
        };
        let mut row = service_row(&lb.key.to_string(), &lb.ingress);
        row.extend([span(Style::Dim, &ports.join(", ")), note]);
        row
    };
    let left = status.left.iter().map(|left| {
        let mut row = service_row(&left.service.to_string(), &left.addresses);
        let why = "stays until its API server can be asked again";
        row.extend([span(Style::Dim, ""), span(Style::Bad, why)]);
        row
    });
    let shown = status.load_balancers.iter().map(|lb| row(lb));
    shown.chain(left).collect()
}

fn service_row(name: &str, addresses: &[String]) -> Line {
    let address = match addresses {
        [] => span(Style::Dim, "-"),
        addresses => span(Style::Good, &addresses.join(", ")),
    };
    vec![span(Style::Plain, name), address]
}

fn gutter(frame: &Frame<'_>) -> usize {
    if frame.width < NARROW { INDENT } else { GUTTER }
}

/// Rows below each other, in columns that are as wide as they need, beside the table's name.
fn table(name: &str, rows: &[Line], frame: &Frame<'_>) -> Vec<Line> {
    let left = gutter(frame);
    // A name as long as names may be leaves room for its address.
    let most = (frame.width.saturating_sub(left) / 2).max(1);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        let widest = cells.map(|cell| width(std::slice::from_ref(cell))).max();
        widest.unwrap_or(0).min(most)
    };
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let name = if index == 0 && left == GUTTER {
            name
        } else {
            ""
        };
        let lead = format!("{:INDENT$}{name}", "");
        let mut line = vec![column(span(Style::Dim, &lead), left)];
        for (index, cell) in row.iter().enumerate() {
            if index + 1 == columns {
                line.push(cell.clone());
            } else if widths[index] > 0 {
                line.push(column(cell.clone(), widths[index]));
                line.push(span(Style::Plain, &" ".repeat(GAP)));
            }
        }
        lines.push(line);
    }
    lines
}

/// The parts one below the other, with as many services as there is room for.
fn fit(mut parts: Vec<Part>, height: usize) -> Vec<Line> {
    let fixed: usize = parts
        .iter()
        .map(|part| part.lines.len() + part.rest.len() + 1)
        .sum();
    // No empty line follows the last part.
    let mut room = (height + 1).saturating_sub(fixed);
    // Those with few services first: what they leave is for the others.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|index| parts[*index].services.len());
    let count = parts.len();
    for (done, index) in order.into_iter().enumerate() {
        let share = room / (count - done);
        let part = &mut parts[index];
        let all = part.services.len();
        if all > share {
            part.services.truncate(share.saturating_sub(1));
            if share > 0 {
                let more = all - part.services.len();
                part.services.push(more_services(more, part));
            }
        }
        room -= part.services.len().min(room);
    }
    let mut lines = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            lines.push(Line::new());
        }
        lines.extend(part.lines.into_iter().chain(part.services).chain(part.rest));
    }
    lines
}

fn more_services(more: usize, part: &Part) -> Line {
    let mut text = format!("{:INDENT$}… {more} more", "");
    if part.pending > 0 {
        text += &format!("; {} of all without an address", part.pending);
    }
    vec![span(Style::Dim, &text)]
}

#[cfg(test)]
mod tests;
