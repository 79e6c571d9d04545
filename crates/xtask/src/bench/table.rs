//! What was measured, beside the first peer and the goals.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Figures, Measured};

/// What Hull promises of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// At most so much of the first peer's.
    Ratio(f64),
    /// At most so many.
    Most(u64),
    /// Nothing: for information.
    None,
}

/// A line of the table.
struct Row {
    name: &'static str,
    unit: &'static str,
    goal: Goal,
    value: fn(&Figures) -> u64,
}

const ROWS: [Row; 10] = [
    row("exec to the guest's first line", "us", Goal::Ratio(0.80), |f| f.first_line),
    row("exec to the first entry into the guest", "us", Goal::Ratio(0.30), |f| f.first_entry),
    row("held beyond guest RAM", "KiB", Goal::Most(3000), |f| f.held),
    row("- of it anonymous", "KiB", Goal::None, |f| f.held_anonymous),
    row("exits to user space", "", Goal::Most(391), |f| f.user_exits),
    row("exits", "", Goal::None, |f| f.kvm.get("exits").copied().unwrap_or(0)),
    row("threads", "", Goal::None, |f| f.threads),
    row("held by the launcher", "KiB", Goal::None, |f| f.launcher),
    row("guest RAM touched", "KiB", Goal::None, |f| f.guest),
    row("- of it anonymous", "KiB", Goal::None, |f| f.guest_anonymous),
];

const fn row(name: &'static str, unit: &'static str, goal: Goal, value: fn(&Figures) -> u64) -> Row {
    Row { name, unit, goal, value }
}

impl Row {
    /// Our value as a share of the peer's.
    fn ratio(&self, ours: &Figures, peer: &Figures) -> Option<f64> {
        let peer = (self.value)(peer);
        (peer > 0).then(|| (self.value)(ours) as f64 / peer as f64)
    }

    /// Whether the goal is met; none without a goal.
    fn met(&self, ours: &Figures, peer: &Figures) -> Option<bool> {
        match self.goal {
            Goal::Ratio(most) => Some(self.ratio(ours, peer)? <= most),
            Goal::Most(most) => Some((self.value)(ours) <= most),
            Goal::None => None,
        }
    }
}

/// Hull, the first peer, and all others.
fn parts(measured: &Measured) -> Result<(&Figures, &Figures)> {
    match measured.as_slice() {
        [(_, ours), (_, peer), ..] => Ok((ours, peer)),
        _ => None.context("nothing was measured"),
    }
}

/// The table for people.
pub fn text(measured: &Measured) -> Result<String> {
    let (ours, peer) = parts(measured)?;
    let mut text = format!("{:<42}", "");
    for (name, _) in measured {
        write!(text, "{name:>12}")?;
    }
    writeln!(text, "{:>9}{:>10}", "ratio", "goal")?;
    for row in &ROWS {
        write!(text, "{:<42}", format!("{} {}", row.name, row.unit).trim_end())?;
        for (_, figures) in measured {
            write!(text, "{:>12}", (row.value)(figures))?;
        }
        let ratio = row.ratio(ours, peer).map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let goal = match row.goal {
            Goal::Ratio(most) => format!("{most:.2}"),
            Goal::Most(most) => most.to_string(),
            Goal::None => String::new(),
        };
        let met = match row.met(ours, peer) {
            Some(true) => "  met",
            Some(false) => "  MISSED",
            None => "",
        };
        writeln!(text, "{ratio:>9}{goal:>10}{met}")?;
    }
    for (name, figures) in measured {
        writeln!(text, "{name}: exits to user space by reason {:?}", figures.user_exits_by_reason)?;
        writeln!(text, "{name}: KVM counted {:?}", figures.kvm)?;
    }
    Ok(text)
}

/// The same for programs.
pub fn json(measured: &Measured) -> Result<String> {
    let (ours, peer) = parts(measured)?;
    let rows: Vec<Value> = ROWS
        .iter()
        .map(|row| {
            let (ratio, most) = match row.goal {
                Goal::Ratio(most) => (Some(most), None),
                Goal::Most(most) => (None, Some(most)),
                Goal::None => (None, None),
            };
            let values: serde_json::Map<String, Value> =
                measured.iter().map(|(name, figures)| (name.clone(), (row.value)(figures).into())).collect();
            json!({
                "figure": row.name, "unit": row.unit, "values": values, "ratio": row.ratio(ours, peer),
                "goal_ratio": ratio, "goal_most": most, "met": row.met(ours, peer),
            })
        })
        .collect();
    let detail: serde_json::Map<String, Value> = measured
        .iter()
        .map(|(name, figures)| Ok((name.clone(), serde_json::to_value(figures)?)))
        .collect::<Result<_>>()?;
    Ok(serde_json::to_string_pretty(&json!({ "table": rows, "detail": detail }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged() {
        let figures = |first_line, user_exits| Figures { first_line, user_exits, ..Figures::default() };
        let judged = |ours: Figures| {
            let measured = vec![("hull".into(), ours), ("qemu".into(), figures(1000, 2000))];
            text(&measured).unwrap_or_default()
        };
        let good = judged(figures(800, 391));
        assert!(good.contains("0.80      0.80  met") && !good.contains("MISSED"), "{good}");
        let bad = judged(figures(801, 392));
        assert_eq!(bad.matches("MISSED").count(), 2, "{bad}");
    }
}
