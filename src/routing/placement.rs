//! A placement as it is configured: `NAME[,option=value…]`, where the name says what the user has.

use std::{fmt, str::FromStr};

use super::hashes::KeyHash;
use super::ketama::{Points, Rounding};
use super::presets::{self, PRESETS, Preset};
use super::{MAX_KEY, Node};
use crate::phrase;

/// Longest prefix, tag or salt, in bytes.
const MAX_TEXT: usize = 64;

/// How keys are placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// As it was written.
    text: String,
    preset: &'static Preset,
    family: Family,
    portion: Portion,
    name_format: Option<NameFormat>,
}

/// An algorithm with its options. Presets are made of these; equal ones place alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Family {
    /// Our own ring.
    Ring,
    /// A remainder of a hash.
    Modulo {
        hash: KeyHash,
        /// Whether a node of weight 2 is there twice.
        weighted: bool,
    },
    Jump {
        seed: u64,
    },
    Ketama {
        points: Points,
        hash: KeyHash,
        /// What is hashed of a node, as [`NameFormat`] has it.
        name: &'static str,
    },
    Dalli,
    PerlFast {
        points: u32,
    },
    PhpMemcache {
        hash: KeyHash,
    },
    Pymemcache,
    Rendezvous,
    Ch3,
    McrouterRendezvous,
    Emcache,
    Bmemcached,
}

/// What of a key is hashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Portion {
    /// Taken off first.
    strip: Option<Box<[u8]>>,
    /// mcrouter's `/region/cluster/` is taken off.
    route: bool,
    /// Only what stands between the first of these and the next of those, if anything does.
    tag: Option<(u8, u8)>,
    /// Only what stands before this.
    stop: Option<Box<[u8]>>,
    /// Added at the end.
    salt: Option<Box<[u8]>>,
}

/// What of a node is hashed: a text with `{host}`, `{port}`, `{ip}` (what is dialled) and `{server}` (host, and port
/// unless it is 11211).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFormat(String);

/// Why a placement was refused: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No preset of that name.
    #[error("no placement is called {}{}; `slipring placements` lists them", phrase::quoted(.0), .1)]
    Unknown(String, String),
    /// The preset does not know the option.
    #[error("placement {} has no option {}; it has {}", .0, phrase::quoted(.1), .2)]
    Option(&'static str, String, String),
    /// Not `option=value`, or with white space in the value.
    #[error("expected option=value after the placement's name, not {}", phrase::quoted(.0))]
    Form(String),
    /// The option does not take the value.
    #[error("placement {}: {}={} is not known; expected {}", .0, .1, phrase::quoted(.2), .3)]
    Value(&'static str, &'static str, String, String),
    /// Given twice.
    #[error("placement {0}: {1} is given twice")]
    Twice(&'static str, String),
}

/// Why a format of names was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a text with {{host}}, {{port}}, {{ip}} or {{server}}, such as {{host}}:{{port}}, up to 64 bytes")]
pub struct NameFormatError;

// === impl Placement ===

impl Placement {
    /// The same, with what is hashed of a node said by the user.
    #[must_use]
    pub fn with_names(self, name_format: Option<NameFormat>) -> Self {
        Self { name_format, ..self }
    }

    /// The same, with what is hashed of a node as another placement has it.
    #[must_use]
    pub fn with_names_of(self, other: &Self) -> Self {
        self.with_names(other.name_format.clone())
    }

    /// The preset's name.
    #[must_use]
    pub fn preset(&self) -> &'static str {
        self.preset.name
    }

    /// The preset's known limits, a sentence or none.
    #[must_use]
    pub fn limits(&self) -> &'static str {
        self.preset.limits
    }

    /// Whether the order of the nodes is part of it.
    #[must_use]
    pub const fn counts_order(&self) -> bool {
        matches!(self.family, Family::Modulo { .. } | Family::Jump { .. } | Family::Ch3)
    }

    /// Whether a node that comes or goes moves nearly every key.
    #[must_use]
    pub const fn moves_everything(&self) -> bool {
        matches!(self.family, Family::Modulo { .. })
    }

    /// Whether nodes may have weights.
    #[must_use]
    pub const fn has_weights(&self) -> bool {
        match self.family {
            Family::Ketama { points: Points::Digests(_, rounding), .. } => !matches!(rounding, Rounding::Unweighted),
            Family::Modulo { weighted, .. } => weighted,
            Family::Ring | Family::Dalli | Family::PhpMemcache { .. } => true,
            _ => false,
        }
    }

    /// Whether the hash that requests have anyway decides: the default placement without options.
    #[must_use]
    pub fn is_by_hash(&self) -> bool {
        self.family == Family::Ring && self.portion.is_whole()
    }

    /// The algorithm and its options; what is hashed of the nodes is not among them.
    pub(super) fn canonical(&self) -> String {
        match self.family {
            // What its fingerprint began with before there were others.
            Family::Ring if self.portion.is_whole() => "ring".to_owned(),
            family => format!("{family:?} {:?}", self.portion),
        }
    }

    pub(super) const fn family(&self) -> &Family {
        &self.family
    }

    pub(super) const fn portion(&self) -> &Portion {
        &self.portion
    }

    /// What is hashed of a node: the name it was given, or what its client makes of its address.
    pub(super) fn label(&self, node: &Node) -> String {
        if node.named {
            return node.name.to_string();
        }
        let format = match (&self.name_format, self.family) {
            (Some(format), _) => &format.0,
            // IPv6 addresses stand in brackets there.
            (None, Family::Ring | Family::Rendezvous) => return node.name.to_string(),
            (None, Family::Ketama { name, .. }) => name,
            (None, Family::PerlFast { .. }) => "{host}\0{port}",
            (None, Family::Emcache) => "{host}{port}",
            // User and password are part of it.
            (None, Family::Bmemcached) => "{host}:{port}_None_None",
            (None, _) => "{host}:{port}",
        };
        expand(format, node)
    }

    /// Every placement that [`detect`](crate::commands) tries: each preset with its defaults, then with each value of
    /// its options.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let plain = PRESETS.iter().map(|preset| preset.name.to_owned());
        let further = PRESETS.iter().flat_map(Preset::variations);
        plain.chain(further).filter_map(|text| text.parse().ok()).collect()
    }
}

impl Default for Placement {
    fn default() -> Self {
        let preset = presets::ring();
        let family = Family::Ring;
        Self { text: preset.name.to_owned(), preset, family, portion: Portion::default(), name_format: None }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let mut parts = text.trim().split(',');
        let name = parts.next().unwrap_or_default().trim();
        let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
            let meant = presets::meant(name);
            let hint =
                if meant.is_empty() { String::new() } else { format!(", perhaps {} is meant", meant.join(" or ")) };
            return Err(PlacementError::Unknown(name.chars().take(80).collect(), hint));
        };
        let mut given: Vec<(String, &str)> = Vec::new();
        for part in parts {
            let (option, value) = part.split_once('=').ok_or_else(|| PlacementError::Form(part.to_owned()))?;
            // No key has such a part, and the whole stands in lines of text.
            if value.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(PlacementError::Form(part.to_owned()));
            }
            let option = option.trim().to_ascii_lowercase().replace('_', "-");
            if given.iter().any(|(other, _)| *other == option) {
                return Err(PlacementError::Twice(preset.name, option));
            }
            given.push((option, value));
        }
        let (family, portion) = preset.configured(&given)?;
        let written = given.iter().map(|(option, value)| format!(",{option}={value}"));
        let text = std::iter::once(preset.name.to_owned()).chain(written).collect();
        Ok(Self { text, preset, family, portion, name_format: None })
    }
}

// === impl Family ===

impl Family {
    /// The same with another hash of the keys, where it can be chosen.
    pub(super) fn with_hash(self, hash: KeyHash) -> Option<Self> {
        match self {
            Self::Modulo { weighted, .. } => Some(Self::Modulo { hash, weighted }),
            // Where points and keys are made by one hash, it is that hash.
            Self::Ketama { points: Points::Each(own, count), hash: key, name } if own == key => {
                Some(Self::Ketama { points: Points::Each(hash, count), hash, name })
            }
            Self::Ketama { points, name, .. } => Some(Self::Ketama { points, hash, name }),
            Self::PhpMemcache { .. } => Some(Self::PhpMemcache { hash }),
            _ => None,
        }
    }
}

// === impl Portion ===

impl Portion {
    /// Whether keys are hashed as they are.
    pub(super) fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn set(&mut self, option: &str, value: &str) -> Result<(), &'static str> {
        let text = || (1..=MAX_TEXT).contains(&value.len()).then(|| Box::from(value.as_bytes()));
        const TEXT: &str = "1 to 64 bytes";
        match option {
            "strip-prefix" => self.strip = Some(text().ok_or(TEXT)?),
            "hash-tag" => match value.as_bytes() {
                [first, second] => self.tag = Some((*first, *second)),
                _ => return Err("two characters, such as {}"),
            },
            "stop" => self.stop = Some(text().ok_or(TEXT)?),
            "salt" => self.salt = Some(text().ok_or(TEXT)?),
            "routing-prefix" => match value {
                "strip" => self.route = true,
                "keep" => self.route = false,
                _ => return Err("strip or keep"),
            },
            _ => {}
        }
        Ok(())
    }

    /// Calls `f` with what is hashed of a key.
    #[inline]
    pub(super) fn of<T>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
        if self.is_whole() { f(key) } else { self.part(key, f) }
    }

    fn part<T>(&self, whole: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
        let mut key = whole;
        if let Some(prefix) = &self.strip {
            key = key.strip_prefix(&**prefix).unwrap_or(key);
        }
        if self.route {
            key = without_route(key);
        }
        if let Some((first, second)) = self.tag
            && let Some(begin) = memchr::memchr(first, key).and_then(|at| key.get(at + 1..))
            && let Some(inside) = memchr::memchr(second, begin).and_then(|at| begin.get(..at))
            && !inside.is_empty()
        {
            key = inside;
        }
        if let Some(stop) = &self.stop {
            key = memchr::memmem::find(key, stop).and_then(|at| key.get(..at)).unwrap_or(key);
        }
        let Some(salt) = &self.salt else { return f(key) };
        let mut room = [0; MAX_KEY + MAX_TEXT];
        let len = key.len().min(MAX_KEY) + salt.len();
        for (place, byte) in room.iter_mut().zip(key.iter().take(MAX_KEY).chain(salt)) {
            *place = *byte;
        }
        f(room.get(..len).unwrap_or_default())
    }
}

/// A key without `/region/cluster/`, as mcrouter hashes it.
fn without_route(key: &[u8]) -> &[u8] {
    let Some(rest) = key.strip_prefix(b"/") else { return key };
    let mut slashes = memchr::memchr_iter(b'/', rest);
    slashes.nth(1).and_then(|second| rest.get(second + 1..)).unwrap_or(key)
}

// === impl NameFormat ===

impl FromStr for NameFormat {
    type Err = NameFormatError;

    fn from_str(text: &str) -> Result<Self, NameFormatError> {
        let bare = FIELDS.iter().fold(text.to_owned(), |text, field| text.replace(field, ""));
        let fits = text.len() <= MAX_TEXT && bare.len() < text.len() && !bare.contains(['{', '}']);
        let plain = !text.contains(|c: char| c.is_control() || c == ' ');
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(NameFormatError) }
    }
}

const FIELDS: [&str; 4] = ["{server}", "{host}", "{port}", "{ip}"];

fn expand(format: &str, node: &Node) -> String {
    let (host, port) = (node.identity(), node.port.to_string());
    let server = if node.port == 11211 { host.to_owned() } else { format!("{host}:{port}") };
    format.replace("{server}", &server).replace("{host}", host).replace("{port}", &port).replace("{ip}", &node.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Placement>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_and_the_nearest_suggested() {
        for (text, problem) in [
            ("pymemcached", "no placement is called \"pymemcached\", perhaps pymemcache is meant; `slipring"),
            ("libmemcache-ketama", "perhaps libmemcached-ketama is meant"),
            // The client's name, where it is no preset's: not that of another client which looks like it.
            ("php-memcached", "perhaps libmemcached or libmemcached-ketama or libmemcached-ketama-weighted is meant"),
            ("nutcracker", "perhaps twemproxy is meant"),
            ("Django", "perhaps pymemcache is meant"),
            ("PyMemcache", "perhaps pymemcache is meant"),
            ("python_memcached", "perhaps python-memcached is meant"),
            ("ketama", "perhaps libmemcached-ketama or "),
            ("xyz", "no placement is called \"xyz\"; `slipring placements` lists them"),
            ("", "no placement is called \"\""),
            (
                "twemproxy,hash=md6",
                "placement twemproxy: hash=\"md6\" is not known; expected one of one_at_a_time, md5,",
            ),
            ("pymemcache,hash=md5", "placement pymemcache has no option \"hash\"; it has strip-prefix"),
            ("dalli,ketama", "expected option=value after the placement's name, not \"ketama\""),
            ("dalli,strip-prefix=a b", "expected option=value"),
            ("dalli,strip-prefix=a\nb", "expected option=value after the placement's name, not \"strip-prefix=a\\nb\""),
            ("twemproxy,hash=md5,hash=md5", "placement twemproxy: hash is given twice"),
            ("twemproxy,hash-tag={", "placement twemproxy: hash-tag=\"{\" is not known; expected two characters"),
            ("perl-cache-memcached-fast,ketama-points=0", "expected a number from 1 to 10000"),
            ("php-memcache,strategy=standard,hash=fnv", "is not known; expected crc32 with strategy=standard"),
        ] {
            assert!(refused(text).contains(problem), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn options_are_read_as_their_software_spells_them() {
        let canonical = |text: &str| {
            let placement: Placement = text.parse().unwrap();
            (placement.canonical(), placement.label(&Node::new("a", 11211, 1)))
        };
        let same = |a: &str, b: &str| canonical(a) == canonical(b);
        assert!(same("twemproxy,hash_tag={}", " twemproxy , hash-tag={}"));
        assert!(same("twemproxy", "twemproxy,distribution=ketama,hash=fnv1a_64"));
        assert!(same("twemproxy,hash=md5", "libmemcached-ketama-weighted"));
        assert!(same("libmemcached,hash=crc", "perl-cache-memcached-fast"));
        assert!(!same("twemproxy,hash=crc32", "twemproxy,hash=crc32a"));
        assert!(!same("pymemcache", "pymemcache,strip-prefix=app:"));
        assert_eq!("dalli,strip_prefix=a".parse::<Placement>().unwrap().to_string(), "dalli,strip-prefix=a");
    }

    #[test]
    fn every_variation_parses_and_presets_differ_or_are_aliases() {
        let all = Placement::all();
        assert!(all.len() > 60, "{}", all.len());
        let expected: usize = PRESETS.iter().map(|preset| 1 + preset.variations().len()).sum();
        assert_eq!(all.len(), expected, "one of them does not parse");
    }

    #[test]
    fn the_part_of_a_key_that_counts() {
        for (options, key, part) in [
            ("strip-prefix=app:", "app:key", "key"),
            ("strip-prefix=app:", "other:key", "other:key"),
            ("hash-tag={}", "a{b}c", "b"),
            ("hash-tag={}", "a{}c{d}", "a{}c{d}"),
            ("hash-tag={}", "a{bc", "a{bc"),
            ("hash-tag=$$", "a$b$c", "b"),
            ("stop=|#|", "a|#|b", "a"),
            ("stop=|#|", "ab", "ab"),
            ("routing-prefix=strip", "/region/cluster/key", "key"),
            ("routing-prefix=strip", "/region/key", "/region/key"),
            ("salt=x", "key", "keyx"),
        ] {
            let (option, value) = options.split_once('=').unwrap();
            let mut portion = Portion::default();
            portion.set(option, value).unwrap();
            let found = portion.of(key.as_bytes(), |part| String::from_utf8(part.to_vec()).unwrap());
            assert_eq!(found, part, "{options} of {key}");
        }
    }

    #[test]
    fn names_are_formatted_and_formats_checked() {
        let node = Node::new("cache-0", 11211, 1).dialled_at("10.0.0.9");
        for (format, expected) in [
            ("{server}", "cache-0"),
            ("{host}:{port}", "cache-0:11211"),
            ("{host}/{ip}:{port}", "cache-0/10.0.0.9:11211"),
            ("/{host}", "/cache-0"),
        ] {
            let placement = Placement::default().with_names(Some(format.parse().unwrap()));
            assert_eq!(placement.label(&node), expected);
        }
        assert_eq!("pymemcache".parse::<Placement>().unwrap().label(&Node::new("::1", 5, 1)), "::1:5");
        assert_eq!(Placement::default().label(&Node::new("::1", 5, 1)), "[::1]:5");
        for wrong in ["", "host", "{hots}", "{host", "{host} {port}", &"{host}".repeat(20)] {
            assert!(wrong.parse::<NameFormat>().is_err(), "{wrong}");
        }
    }
}
