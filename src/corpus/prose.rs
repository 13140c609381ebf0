//! Stories and dialogue: sentences from small grammars.

use super::draw::Draw;

const HEROES: [&str; 10] = ["Pim", "Lulu", "Tobo", "Mila", "Rufus", "Nessa", "Bodo", "Willa", "Hugo", "Fern"];
const ANIMALS: [&str; 10] =
    ["fox", "bear", "otter", "hedgehog", "rabbit", "badger", "owl", "mouse", "squirrel", "toad"];
const TRAITS: [&str; 8] = ["little", "brave", "sleepy", "clever", "shy", "hungry", "kind", "old"];
const PLACES: [&str; 8] = ["forest", "river", "meadow", "mountain", "village", "lake", "garden", "old mill"];
const THINGS: [&str; 8] = [
    "silver key",
    "golden leaf",
    "lost hat",
    "honey pot",
    "warm blanket",
    "tiny lantern",
    "shiny stone",
    "drum",
];
const FEELINGS: [&str; 6] = ["happy", "proud", "tired", "glad", "cheerful", "calm"];
const WEATHER: [&str; 4] =
    ["The sun was shining.", "A soft rain fell.", "The wind was cold.", "Snow lay on the ground."];
const HIDDEN: [&str; 4] = ["under a stone", "behind a tree", "inside a hollow log", "below the bridge"];

/// A tale of one hero, one friend, one place and one thing.
pub(super) fn story(draw: &mut Draw) -> String {
    let [hero, friend] = draw.several(&HEROES, 2)[..] else { unreachable!() };
    let [animal, other] = draw.several(&ANIMALS, 2)[..] else { unreachable!() };
    let (trait_, place, thing) = (draw.pick(&TRAITS), draw.pick(&PLACES), draw.pick(&THINGS));
    let mut s = match draw.below(3) {
        0 => format!("Once upon a time there was a {trait_} {animal} named {hero}."),
        1 => format!("Long ago a {trait_} {animal} named {hero} lived near the {place}."),
        _ => format!("{hero} was a {trait_} {animal} who lived near the {place}."),
    };
    s += &match draw.below(2) {
        0 => format!(" One day {hero} went to the {place} to look for the {thing}."),
        _ => format!(" Every day {hero} dreamed of the {thing}, so {hero} walked to the {place}."),
    };
    if draw.one_in(2) {
        s += " ";
        s += draw.pick(&WEATHER);
    }
    s += &format!("\nThere {hero} the {animal} met {friend} the {other}.");
    s += &match draw.below(3) {
        0 => format!(" \"Have you seen the {thing}?\" asked {hero}."),
        1 => format!(" {friend} the {other} was looking for the {thing} too."),
        _ => format!(" {friend} told {hero} a secret about the {thing}."),
    };
    let hidden = draw.pick(&HIDDEN);
    s += &match draw.below(2) {
        0 => format!(" Together they searched the {place} and found the {thing} {hidden}."),
        _ => format!(" They searched {hidden}, and there was the {thing}!"),
    };
    let feeling = draw.pick(&FEELINGS);
    s += &match draw.below(3) {
        0 => format!("\n{hero} took the {thing} home and was very {feeling}.\n"),
        1 => format!("\n{hero} gave the {thing} to {friend}, and both were {feeling}.\n"),
        _ => format!(
            "\nSo {hero} and {friend} became friends, and the {animal} and the {other} were {feeling}.\n"
        ),
    };
    s
}

const PEOPLE: [&str; 10] =
    ["ALICE", "BORIS", "CARLA", "DAVID", "EMMA", "FELIX", "GRETA", "HENRY", "IRENE", "JONAS"];
const FOODS: [&str; 8] = ["pizza", "noodles", "tomato soup", "pancakes", "rice", "cheese", "fish", "salad"];
const HOBBIES: [&str; 8] =
    ["chess", "football", "painting", "swimming", "dancing", "reading", "singing", "cycling"];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const HOURS: [&str; 6] = ["noon", "two", "three", "four", "five", "six"];

/// Two speakers; an answer is repeated by the one who asked.
pub(super) fn dialogue(draw: &mut Draw) -> String {
    let [a, b] = draw.several(&PEOPLE, 2)[..] else { unreachable!() };
    let mut s = match draw.below(3) {
        0 => format!("{a}: Hello {b}, how are you?\n{b}: I'm fine, thanks. And you, {a}?\n{a}: Very well!\n"),
        1 => format!("{a}: Good morning, {b}!\n{b}: Good morning, {a}!\n"),
        _ => format!("{a}: Hi {b}, do you have a minute?\n{b}: Of course, {a}.\n"),
    };
    let turns = draw.range(1, 2);
    for question in draw.several(&[0, 1, 2], turns) {
        s += &match question {
            0 => {
                let food = draw.pick(&FOODS);
                let verdict = draw.pick(&["I love", "I don't like", "I often cook"]);
                let reply = match verdict {
                    "I love" => "So you love",
                    "I don't like" => "So you don't like",
                    _ => "So you often cook",
                };
                format!("{a}: What do you think of {food}?\n{b}: {verdict} {food}.\n{a}: {reply} {food}!\n")
            }
            1 => {
                let hobby = draw.pick(&HOBBIES);
                format!("{a}: What is your hobby?\n{b}: My hobby is {hobby}.\n{a}: Oh, {hobby} is fun!\n")
            }
            _ => {
                let (day, hour) = (draw.pick(&DAYS), draw.pick(&HOURS));
                format!(
                    "{a}: When shall we meet?\n{b}: Please come on {day} at {hour}.\n\
                     {a}: Okay, {day} at {hour} is perfect.\n"
                )
            }
        };
    }
    s += &match draw.below(2) {
        0 => format!("{b}: Goodbye, {a}!\n{a}: See you soon, {b}!\n"),
        _ => format!("{b}: I must go now.\n{a}: Bye, {b}!\n"),
    };
    s
}
