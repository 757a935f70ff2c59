//! Two changes of the same thing: which one counts, and on whose screen.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use shared::{Predicts, Stage, Verdict};

use super::{arrived, goes_on, player::Player, server_role, stopped};
use crate::{
    canvas::Canvas,
    wire::{Event, NOTICE, Stroke, numbered},
};

pub fn same_letter(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Scores {
        Ann,
        Bob,
        Each,
    }
    let (mut server, server_addr) = server_role("server")?;
    let mut bob = Player::join(stage, "bob", server_addr)?;
    bob.hears(stage)?;
    let mut ann = Player::join(stage, "ann", server_addr)?;
    ann.hears(stage)?;
    bob.send(stage, "letter")?;
    for player in [&mut ann, &mut bob] {
        player.hears_of(stage, " word ")?;
    }

    let question = stage.ask(
        "Bob joined before Ann. The server stands still. Ann sends \"e\", and after her Bob sends \"e\". Then the server goes on. Who gets the two points?",
        [
            ("Ann: her clock shows the earlier time", Scores::Ann),
            ("Bob: his line is the first that is read", Scores::Bob),
            ("Ann and Bob two each: they were equally fast", Scores::Each),
        ],
        Predicts { source: Some(Scores::Ann), kit: Scores::Bob },
    )?;
    stopped(stage, &server)?;
    let ann_sends = Instant::now();
    ann.send(stage, "e")?;
    arrived(stage, &ann, 2)?;
    let bob_sends = Instant::now();
    bob.send(stage, "e")?;
    arrived(stage, &bob, 2)?;
    let ahead = bob_sends.duration_since(ann_sends);
    ensure!(!ahead.is_zero(), "Ann did not send before Bob");
    stage.say("clock", format_args!("Ann sent {} microseconds before Bob", ahead.as_micros()));
    goes_on(stage, &server)?;
    stage.server("polls all clients at once, then reads them in the order in which it has accepted them");
    let line = ann.hears_of(stage, " letter ")?;
    let (_, Event::Letter { name, places: 2, .. }) = numbered(&line).map_err(anyhow::Error::msg)? else {
        bail!("the server says {line:?}");
    };
    bob.hears_of(stage, " letter ")?;
    let second = if name == "ann" { &mut bob } else { &mut ann };
    let told = second.hears(stage)?; // a notice, or the letter once more
    for line in [" letter ", ": too late"] {
        if line == " letter " || told.starts_with(NOTICE) {
            stage.server(server.line_with(line)?.trim_end());
        }
    }
    let observed = match name.as_str() {
        _ if !told.starts_with(NOTICE) => Scores::Each,
        "ann" => Scores::Ann,
        _ => Scores::Bob,
    };
    stage.verdict(question, observed, "the server does not know who sent first: the first line it reads counts")
}

pub fn same_cell(stage: &mut Stage) -> Result<Verdict> {
    let (server, server_addr) = server_role("whiteboard")?;
    let mut ann = Player::join(stage, "ann", server_addr)?;
    let mut bob = Player::join(stage, "bob", server_addr)?;
    // Two ways to keep a picture. Own order: my stroke at once, the others' when they come. Central: as the server numbers.
    let (mut own, mut central) = ([Canvas::default(), Canvas::default()], [Canvas::default(), Canvas::default()]);
    for (player, copy) in [&mut ann, &mut bob].into_iter().zip(&mut central) {
        copy.hear(&player.line()?).map_err(anyhow::Error::msg)?;
    }
    central[0].hear(&ann.line()?).map_err(anyhow::Error::msg)?; // bob joined
    stage.say("clients", "each paints its own stroke at once, and the other's when it comes");

    let question = stage.ask(
        "At the same time Ann paints A and Bob paints B in cell 5,5. The server sends both strokes to both. What do the screens show in the end?",
        [
            ("A on Ann's, B on Bob's", ('A', 'B')),
            ("B on Ann's, A on Bob's", ('B', 'A')),
            ("A on Ann's, A on Bob's", ('A', 'A')),
            ("B on Ann's, B on Bob's", ('B', 'B')),
        ],
        Predicts { source: None, kit: ('B', 'A') },
    )?;
    stopped(stage, &server)?; // so both strokes are there when it looks
    for ((player, pen), copy) in [(&ann, 'A'), (&bob, 'B')].into_iter().zip(&mut own) {
        let stroke = Stroke { x: 5, y: 5, pen };
        copy.paint(stroke);
        player.send(stage, &stroke.to_string())?;
        arrived(stage, player, 6)?;
    }
    goes_on(stage, &server)?;
    for (at, player) in [&mut ann, &mut bob].into_iter().enumerate() {
        for _ in 0..2 {
            let line = player.hears(stage)?;
            match central[at].hear(&line).map_err(anyhow::Error::msg)? {
                Some(Event::Stroke { name, stroke }) if name != player.name => own[at].paint(stroke),
                _ => true, // its own, painted before
            };
        }
    }
    let shown = |copies: &[Canvas; 2]| (copies[0].cell(5, 5).unwrap_or('?'), copies[1].cell(5, 5).unwrap_or('?'));
    let (observed, mended) = (shown(&own), shown(&central));
    stage.say("screens", format_args!("each in its own order: {} on Ann's, {} on Bob's", observed.0, observed.1));
    stage.say("mended", format_args!("each in the server's order: {} on Ann's, {} on Bob's", mended.0, mended.1));
    ensure!(mended.0 == mended.1, "in the server's order the screens differ");
    stage.verdict(question, observed, "each keeps the other's stroke; in one order for all, the later one wins")
}
