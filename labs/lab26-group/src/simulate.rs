//! The same protocol over a simulated network: one run with its logs, or many runs that are checked.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Result;
use shared::Screen;

use crate::{
    Broken, SimulateArgs,
    group::Settings,
    simulation::{Life, Plan, check, play},
};

const HEARTBEAT: Duration = Duration::from_millis(50);
/// So many broken runs are told.
const TOLD: u64 = 3;

/// Plays and checks; exit status 1 if a promise was broken.
pub fn run(args: &SimulateArgs) -> Result<ExitCode> {
    let mut screen = Screen::new();
    let plan = plan(args);
    let (mut broken, mut texts, mut lives) = (0, 0, 0);
    let (mut sent, mut received, mut lost) = (BTreeMap::<&str, u64>::new(), 0, 0);
    for seed in args.seed..args.seed.saturating_add(args.runs) {
        let outcome = play(&plan, seed);
        if args.runs == 1 {
            let rest = outcome.rest.map_or("never".into(), |rest| format!("after {} ms", rest.as_millis()));
            screen.line(format_args!("seed {seed}: at rest {rest}; a text is SENDER:NUMBER"));
            outcome.lives.iter().for_each(|life| show(&mut screen, life));
        }
        if let Err(promise) = check(&plan, &outcome) {
            broken += 1;
            if broken <= TOLD {
                screen.line(screen.hang(&format!("seed {seed} breaks "), &promise));
            }
        }
        texts += u64::from(outcome.texts);
        lives += outcome.lives.len() as u64 - u64::from(args.members);
        received += outcome.received;
        lost += outcome.lost;
        outcome.sent.into_iter().for_each(|(kind, count)| *sent.entry(kind).or_default() += count);
    }
    let sum = sent.values().sum::<u64>();
    let kinds: Vec<String> = sent.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    screen.line(format_args!("runs      {}, {texts} texts said; declared dead while alive: {lives}", args.runs));
    screen.line(screen.hang("sent      ", &format!("{sum}: {}", kinds.join(", "))));
    screen.line(format_args!("arrived   {received}, lost on the way {lost}"));
    screen.line(format_args!("promises  broken in {broken} of {} runs", args.runs));
    Ok(if broken > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(args: &SimulateArgs) -> Plan {
    let mut settings = Settings::new(args.order, HEARTBEAT);
    settings.repair = args.broken != Some(Broken::Repair);
    settings.merge_clock = args.broken != Some(Broken::Clock);
    settings.flush = args.broken != Some(Broken::Flush);
    let SimulateArgs { members, loss, texts, crashes, stops, .. } = *args;
    Plan { settings, members, loss, longest_ms: 20, texts, crashes, stops }
}

fn show(screen: &mut Screen, life: &Life) {
    let end = match (life.at_end, life.whole) {
        (true, true) => "to the end",
        (true, false) => "came back",
        (false, true) => "crashed",
        (false, false) => "declared dead",
    };
    let log: Vec<String> = life.log.iter().map(|(id, number)| format!("{id}:{number}")).collect();
    let lead = format!("member {:<3}{end:<14}", life.id);
    let log = if log.is_empty() { "nothing".into() } else { log.join(" ") };
    let behind = if life.start > 0 { format!("(behind {} texts) ", life.start) } else { String::new() };
    screen.line(screen.hang(&lead, &format!("{behind}{log}")));
}
