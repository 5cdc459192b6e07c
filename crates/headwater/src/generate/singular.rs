//! The singular of a table's name.
//!
//! The rules are those that IHP uses, which are those of Rails: an ending behind a stem is replaced by another,
//! and the last rule that fits decides. They come before the words that have no rule, so that the original makes
//! `Mofe` of `moves`; the corrected form looks at those words first, and at the last part of a name alone.
//!
//! Source: `datasync.md` 20.

/// What stands before the ending.
#[derive(Clone, Copy)]
enum Stem {
    /// One of these.
    Of(&'static [&'static str]),
    /// One of these is all there is before.
    Whole(&'static [&'static str]),
    /// Any letter but these, or this text.
    Not(&'static str, &'static str),
}

/// A stem, its endings, and what replaces them.
struct Rule(Stem, &'static [&'static str], &'static str);

use Stem::{Not, Of, Whole};

/// In the order of the list: the last one that fits decides.
const RULES: [Rule; 27] = [
    Rule(Of(&[""]), &["s"], ""),
    Rule(Of(&["ss"]), &[""], ""),
    Rule(Of(&["n"]), &["ews"], "ews"),
    Rule(Of(&["t", "i"]), &["a"], "um"),
    Rule(
        Of(&["analy", "ba", "diagno", "parenthe", "progno", "synop", "the"]),
        &["sis", "ses"],
        "sis",
    ),
    Rule(Whole(&["analy"]), &["sis", "ses"], "sis"),
    Rule(Not("f", ""), &["ves"], "fe"),
    Rule(Of(&["hive"]), &["s"], ""),
    Rule(Of(&["tive"]), &["s"], ""),
    Rule(Of(&["l", "r"]), &["ves"], "f"),
    Rule(Not("aeiouy", "qu"), &["ies"], "y"),
    Rule(Of(&["s"]), &["eries"], "eries"),
    Rule(Of(&["m"]), &["ovies"], "ovie"),
    Rule(Of(&["x", "ch", "ss", "sh"]), &["es"], ""),
    Rule(Whole(&["m", "l"]), &["ice"], "ouse"),
    Rule(Of(&["bus"]), &["", "es"], ""),
    Rule(Of(&["o"]), &["es"], ""),
    Rule(Of(&["shoe"]), &["s"], ""),
    Rule(Of(&["cris", "test"]), &["is", "es"], "is"),
    Rule(Whole(&["a"]), &["xis", "xes"], "xis"),
    Rule(Of(&["octop", "vir"]), &["us", "i"], "us"),
    Rule(Of(&["alias", "status"]), &["", "es"], ""),
    // Of `^(ox)en`, which needs no end, only the whole word is a plural; `prefixed` has the rest.
    Rule(Whole(&["ox"]), &["en"], ""),
    Rule(Of(&["vert", "ind"]), &["ices"], "ex"),
    Rule(Of(&["matr"]), &["ices"], "ix"),
    Rule(Of(&["quiz"]), &["zes"], ""),
    Rule(Of(&["database"]), &["s"], ""),
];

/// The place of the rule for `oxen` in the list.
const OXEN: usize = 22;

const UNCOUNTABLE: [&str; 10] = [
    "equipment",
    "information",
    "rice",
    "money",
    "species",
    "series",
    "fish",
    "sheep",
    "jeans",
    "police",
];

const IRREGULAR: [(&str, &str); 6] = [
    ("person", "people"),
    ("man", "men"),
    ("child", "children"),
    ("sex", "sexes"),
    ("move", "moves"),
    ("zombie", "zombies"),
];

/// What the rules get wrong of what tables are often called; for the corrected form.
const CORRECTED: [(&str, &str); 18] = [
    ("bonus", "bonuses"),
    ("cache", "caches"),
    ("calf", "calves"),
    ("campus", "campuses"),
    ("cookie", "cookies"),
    ("half", "halves"),
    ("knife", "knives"),
    ("leaf", "leaves"),
    ("life", "lives"),
    ("loaf", "loaves"),
    ("scarf", "scarves"),
    ("self", "selves"),
    ("shelf", "shelves"),
    ("thief", "thieves"),
    ("tie", "ties"),
    ("virus", "viruses"),
    ("wife", "wives"),
    ("wolf", "wolves"),
];

/// The singular as the original has it.
pub fn original(name: &str) -> String {
    let by_rule = RULES.iter().enumerate().rev().find_map(|(number, rule)| match number {
        OXEN => prefixed(name),
        _ => by_rule(name, rule),
    });
    // Here only the very word counts, in lower case.
    let irregular = || IRREGULAR.iter().find(|(_, plural)| *plural == name);
    by_rule.or_else(|| irregular().map(|(one, _)| (*one).to_owned())).unwrap_or(name.to_owned())
}

/// The singular of the last part of a name: words without a rule first, then the rules.
pub fn corrected(name: &str) -> String {
    let last = name.rfind(|letter: char| !letter.is_alphanumeric());
    let start = last.map_or(0, |at| at + name[at..].chars().next().map_or(0, char::len_utf8));
    let (before, word) = name.split_at(start);
    let is = |other: &str| word.eq_ignore_ascii_case(other);
    if UNCOUNTABLE.iter().any(|uncountable| is(uncountable)) {
        return name.to_owned();
    }
    let irregular = IRREGULAR.iter().chain(&CORRECTED).find(|(_, plural)| is(plural));
    let one = match irregular {
        // As it was written: the letters that both words begin with are kept.
        Some((one, plural)) => {
            let same = one.bytes().zip(plural.bytes()).take_while(|(a, b)| a == b).count();
            format!("{}{}", &word[..same], &one[same..])
        }
        // Most of these end in `e` without an `s`: waves, drives, curves.
        None if without_ending(word, "ves").is_some() => word[..word.len() - 1].to_owned(),
        None => RULES
            .iter()
            .rev()
            .find_map(|rule| by_rule(word, rule))
            .filter(|one| !one.is_empty())
            .unwrap_or_else(|| word.to_owned()),
    };
    format!("{before}{one}")
}

fn by_rule(name: &str, Rule(stem, endings, instead): &Rule) -> Option<String> {
    endings.iter().find_map(|ending| {
        let head = without_ending(name, ending)?;
        let fits = match stem {
            Of(stems) => stems.iter().any(|stem| without_ending(head, stem).is_some()),
            Whole(stems) => stems.iter().any(|stem| head.eq_ignore_ascii_case(stem)),
            Not(letters, text) => {
                let other = |letter: char| !letters.contains(letter.to_ascii_lowercase());
                head.chars().next_back().is_some_and(other)
                    || (!text.is_empty() && without_ending(head, text).is_some())
            }
        };
        fits.then(|| format!("{head}{instead}"))
    })
}

fn prefixed(name: &str) -> Option<String> {
    let (head, rest) = name.split_at_checked("oxen".len())?;
    head.eq_ignore_ascii_case("oxen").then(|| format!("{}{rest}", &head[..2]))
}

/// What stands before an ending, in whatever case it is written.
fn without_ending<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (head, tail) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    tail.eq_ignore_ascii_case(ending).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rule of the list, in its order.
    #[test]
    fn every_rule_of_the_original_has_its_singular() {
        for (plural, singular) in [
            ("invoices", "invoice"),
            ("address", "address"),
            ("news", "news"),
            ("data", "datum"),
            ("media", "medium"),
            ("analyses", "analysis"),
            ("bases", "basis"),
            ("diagnoses", "diagnosis"),
            ("parentheses", "parenthesis"),
            ("prognoses", "prognosis"),
            ("synopses", "synopsis"),
            ("theses", "thesis"),
            ("basis", "basis"),
            ("knives", "knife"),
            ("hives", "hive"),
            ("natives", "native"),
            ("wolves", "wolf"),
            ("scarves", "scarf"),
            ("companies", "company"),
            ("soliloquies", "soliloquy"),
            ("series", "series"),
            ("movies", "movie"),
            ("boxes", "box"),
            ("branches", "branch"),
            ("addresses", "address"),
            ("dishes", "dish"),
            ("mice", "mouse"),
            ("lice", "louse"),
            ("bus", "bus"),
            ("buses", "bus"),
            ("heroes", "hero"),
            ("shoes", "shoe"),
            ("crises", "crisis"),
            ("testes", "testis"),
            ("axes", "axis"),
            ("axis", "axis"),
            ("octopi", "octopus"),
            ("viruses", "viruse"),
            ("virus", "virus"),
            ("aliases", "alias"),
            ("statuses", "status"),
            ("status", "status"),
            ("oxen", "ox"),
            ("vertices", "vertex"),
            ("indices", "index"),
            ("matrices", "matrix"),
            ("quizzes", "quiz"),
            ("databases", "database"),
            ("people", "person"),
            ("men", "man"),
            ("children", "child"),
            ("fish", "fish"),
            ("sheep", "sheep"),
            ("Users", "User"),
            ("BUSES", "BUS"),
            ("größen", "größen"),
            ("é", "é"),
            ("", ""),
        ] {
            assert_eq!(original(plural), singular, "{plural}");
        }
    }

    #[test]
    fn the_original_lets_its_rules_win_and_looks_at_whole_names() {
        for (plural, singular) in [
            ("species", "specy"),
            ("moves", "mofe"),
            ("jeans", "jean"),
            ("sexes", "sex"),
            ("zombies", "zomby"),
            ("user_people", "user_people"),
            ("field_mice", "field_mice"),
            ("oxenford", "oxford"),
        ] {
            assert_eq!(original(plural), singular, "{plural}");
        }
    }

    #[test]
    fn the_corrected_form_knows_words_without_a_rule_also_at_the_end_of_a_name() {
        for (plural, singular) in [
            ("species", "species"),
            ("moves", "move"),
            ("jeans", "jeans"),
            ("sexes", "sex"),
            ("zombies", "zombie"),
            ("user_people", "user_person"),
            ("bank_police", "bank_police"),
            ("field_mice", "field_mouse"),
            ("People", "Person"),
            ("oxen", "ox"),
            ("oxenford", "oxenford"),
            ("issue_labels", "issue_label"),
            ("phone-numbers", "phone-number"),
            ("brain_waves", "brain_wave"),
            ("curves", "curve"),
            ("book_shelves", "book_shelf"),
            ("browser_caches", "browser_cache"),
            ("companies", "company"),
            ("a_", "a_"),
            ("s", "s"),
            ("größen", "größen"),
        ] {
            assert_eq!(corrected(plural), singular, "{plural}");
        }
    }
}
