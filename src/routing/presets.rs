//! The placements by what the user has: data. `slipring placements` and the manual's table are made from it.
//!
//! Versions are those whose placement was compared key by key with ours (`tests/vectors`, `tests/clients`).

use super::hashes::KeyHash::{self, *};
use super::ketama::{Digest, Points, Rounding};
use super::placement::{Family, PlacementError, Portion};
use twox_hash::XxHash3_64;

/// Option, or hash, or variant: its name in the software, and what it is here.
type Values<T> = &'static [(&'static str, T)];

/// A placement of others, or of ours.
#[derive(Debug, PartialEq)]
pub struct Preset {
    /// As it is given to `--placement`.
    pub name: &'static str,
    /// Clients and versions it matches.
    pub clients: &'static str,
    /// What it cannot mirror, in a sentence; may be empty.
    pub limits: &'static str,
    /// The option that chooses the algorithm; empty when there is no choice.
    choice: &'static str,
    /// The values of that option; the first is the default.
    variants: Values<Family>,
    /// The values of `hash`; empty when there is no choice.
    hashes: Values<KeyHash>,
    /// Further options.
    options: &'static [&'static str],
}

/// All of them, in the order in which they are listed, and preferred where several place alike.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "ring",
        clients: "slipring's own: XXH3 points by node name and weight, the most even shares",
        limits: "",
        variants: &[("", Family::Ring)],
        options: &["strip-prefix", "hash-tag"],
        ..NONE
    },
    Preset {
        name: "pymemcache",
        clients: "pymemcache 4.0 HashClient (Django's PyMemcacheCache too)",
        limits: "an app that passes keys as bytes places otherwise than with str, and cannot be matched; key_prefix is \
                 not hashed by it: give it as strip-prefix; dead nodes are rehashed by it for a while",
        variants: &[("", Family::Pymemcache)],
        ..NONE
    },
    Preset {
        name: "libmemcached",
        clients: "libmemcached 1.0 and 1.1, pylibmc 1.6, php-memcached 3.2: defaults, text or binary",
        limits: C_CHAR,
        variants: &[("", modulo(OneAtATime))],
        hashes: LIBMEMCACHED,
        ..NONE
    },
    Preset {
        name: "libmemcached-ketama",
        clients: "pylibmc 1.6 {\"ketama\": True}; php-memcached 3.2 OPT_DISTRIBUTION = DISTRIBUTION_CONSISTENT; \
                  libmemcached MEMCACHED_BEHAVIOR_KETAMA",
        limits: C_CHAR,
        variants: &[("", ketama(Points::Each(OneAtATime, 100), OneAtATime, SERVER))],
        hashes: LIBMEMCACHED,
        ..NONE
    },
    Preset {
        name: "libmemcached-ketama-weighted",
        clients: "pylibmc 1.6 {\"ketama_weighted\": True}; php-memcached 3.2 OPT_LIBKETAMA_COMPATIBLE; libmemcached \
                  MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED",
        limits: "with auto-eject the client places elsewhere for a while",
        variants: &[("", ketama(FROM_WEIGHTS, Md5, SERVER))],
        ..NONE
    },
    Preset {
        name: "python-memcached",
        clients: "python-memcached 1.62 (version=1.59 for those up to 1.59)",
        limits: "on a failed connection the client tries other nodes for a while",
        choice: "version",
        variants: &[("1.62", weighted(Crc15)), ("1.59", weighted(Crc15Nonzero))],
        ..NONE
    },
    Preset {
        name: "php-memcache",
        clients: "pecl memcache 8.0 and 4.0 (PHP, the one without d), consistent or standard strategy",
        limits: "failover places elsewhere for a while; with hash=fnv non-ASCII keys lie elsewhere on arm64",
        choice: "strategy",
        variants: &[("consistent", Family::PhpMemcache { hash: Crc32 }), ("standard", weighted(Crc15Nonzero))],
        hashes: &[("crc32", Crc32), ("fnv", Fnv1aW32)],
        ..NONE
    },
    Preset {
        name: "dalli",
        clients: "dalli 3.0 and 5.0 (Ruby, Rails' mem_cache_store)",
        limits: "failover, on by default, places elsewhere for a while",
        variants: &[("", Family::Dalli)],
        ..NONE
    },
    Preset {
        name: "spymemcached",
        clients: "spymemcached 2.12 (Java): defaults, text or binary",
        limits: "",
        variants: &[("", modulo(Java))],
        hashes: SPYMEMCACHED,
        ..NONE
    },
    Preset {
        name: "spymemcached-ketama",
        clients: "spymemcached 2.12 KetamaConnectionFactory, Locator.CONSISTENT (hash=native without KETAMA_HASH)",
        limits: "nodes given by name are hashed as host/ip:port: say --node-name-format {host}/{ip}:{port}",
        variants: &[("", ketama(EVEN, Md5, HOST_PORT))],
        hashes: SPYMEMCACHED,
        ..NONE
    },
    Preset {
        name: "gomemcache",
        clients: "bradfitz/gomemcache, google/gomemcache",
        limits: "",
        variants: &[("", modulo(Crc32))],
        ..NONE
    },
    Preset { name: "memjs", clients: "memjs (Node.js)", limits: "", variants: &[("", modulo(JavaAbsolute))], ..NONE },
    Preset {
        name: "node-memcached",
        clients: "npm memcached (3rd-Eden) with its default md5",
        limits: "failover places elsewhere for a while",
        variants: &[("", ketama(Points::Digests(Digest::Md5, Rounding::Double), Md5, SERVER))],
        ..NONE
    },
    Preset {
        name: "node-memcached-sha1",
        clients: "npm memcached with algorithm: sha1",
        limits: "failover places elsewhere for a while",
        variants: &[("", ketama(Points::Digests(Digest::Sha1, Rounding::Double), Sha1, SERVER))],
        ..NONE
    },
    Preset {
        name: "twemproxy",
        clients: "twemproxy (nutcracker) 0.5, distribution and hash as in its configuration",
        limits: "distribution: random cannot be matched; auto_eject_hosts places elsewhere for a while; hash=crc32 with \
                 ketama puts every key on one node, as there; non-ASCII keys lie elsewhere on arm64",
        choice: "distribution",
        variants: &[("ketama", ketama(FROM_WEIGHTS, Fnv1aW64, SERVER)), ("modula", weighted(Fnv1aW64))],
        hashes: &[
            ("one_at_a_time", OneAtATime),
            ("md5", Md5),
            ("crc16", Crc16),
            ("crc32", Crc15),
            ("crc32a", Crc32),
            ("fnv1_64", Fnv1W64),
            ("fnv1a_64", Fnv1aW64),
            ("fnv1_32", Fnv1W32),
            ("fnv1a_32", Fnv1aW32),
            ("hsieh", Hsieh),
            ("murmur", Murmur2),
            ("jenkins", Jenkins),
        ],
        options: &["strip-prefix", "hash-tag"],
    },
    Preset {
        name: "memcached-proxy",
        clients: "memcached's own proxy 1.6: mode=jump (its default), ring, ketama, twemproxy or evcache; hash=md5 is \
                  hash = mcp.dist_ring_hash.hash",
        limits: "",
        choice: "mode",
        variants: &[
            ("jump", Family::Jump { seed: 0 }),
            ("ring", ketama(Points::Each(Xxh3W32, 160), Xxh3W32, HOST_PORT)),
            ("ketama", ketama(EVEN, Xxh3W32, HOST_PORT)),
            ("twemproxy", ketama(EVEN, Xxh3W32, SERVER)),
            ("evcache", ketama(EVEN, Xxh3W32, "{host}/{host}:{port}")),
        ],
        hashes: &[("xxh3", Xxh3W32), ("md5", Md5)],
        options: &["strip-prefix", "hash-tag", "stop", "seed"],
    },
    Preset {
        name: "perl-cache-memcached",
        clients: "Perl Cache::Memcached 1.30",
        limits: "on a failed connection the client tries other nodes for a while",
        variants: &[("", weighted(Crc15))],
        ..NONE
    },
    Preset {
        name: "perl-cache-memcached-fast",
        clients: "Perl Cache::Memcached::Fast 0.28; ketama-points as in its constructor",
        limits: "",
        variants: &[("", modulo(Crc15))],
        options: &["strip-prefix", "ketama-points"],
        ..NONE
    },
    Preset {
        name: "emcache",
        clients: "emcache 1.3 (Python, asyncio)",
        limits: "",
        variants: &[("", Family::Emcache)],
        ..NONE
    },
    Preset {
        name: "bmemcached",
        clients: "bmemcached (python-binary-memcached) DistributedClient",
        limits: "user and password are hashed: with them say --node-name-format {host}:{port}_USER_PASSWORD",
        variants: &[("", Family::Bmemcached)],
        ..NONE
    },
    Preset {
        name: "rust-memcache",
        clients: "Rust crate memcache 0.21",
        limits: "",
        variants: &[("", modulo(RustStr))],
        ..NONE
    },
    Preset {
        name: "mcrouter",
        clients: "mcrouter (2026): hash=ch3 (its default), crc32 or rendezvous",
        limits: "weighted pools (WeightedCh3 with weights below 1) cannot be matched; a key counts up to |#|",
        choice: "hash",
        variants: &[("ch3", Family::Ch3), ("crc32", modulo(Crc31)), ("rendezvous", Family::McrouterRendezvous)],
        options: &["strip-prefix", "salt", "routing-prefix"],
        ..NONE
    },
    Preset {
        name: "modula",
        clients: "any client that takes a remainder of a hash",
        limits: "",
        variants: &[("", weighted(Crc32))],
        hashes: &[
            ("crc32", Crc32),
            ("crc15", Crc15),
            ("one_at_a_time", OneAtATime),
            ("md5", Md5),
            ("sha1", Sha1),
            ("fnv1_32", Fnv1W32),
            ("fnv1a_32", Fnv1aW32),
            ("fnv1_64", Fnv1W64),
            ("fnv1a_64", Fnv1aW64),
            ("murmur", Murmur2),
            ("jenkins", Jenkins),
            ("hsieh", Hsieh),
            ("java", Java),
            ("xxh3", Xxh3),
        ],
        options: &["strip-prefix", "hash-tag"],
        ..NONE
    },
    Preset {
        name: "jump",
        clients: "jump consistent hash over XXH3: nodes are appended and taken from the end",
        limits: "",
        variants: &[("", Family::Jump { seed: 0 })],
        options: &["strip-prefix", "hash-tag", "seed"],
        ..NONE
    },
    Preset {
        name: "rendezvous",
        clients: "highest random weight over XXH3 and the nodes' names",
        limits: "",
        variants: &[("", Family::Rendezvous)],
        options: &["strip-prefix", "hash-tag"],
        ..NONE
    },
];

/// What most have.
const NONE: Preset =
    Preset { name: "", clients: "", limits: "", choice: "", variants: &[], hashes: &[], options: &["strip-prefix"] };

const EVEN: Points = Points::Digests(Digest::Md5, Rounding::Unweighted);
const FROM_WEIGHTS: Points = Points::Digests(Digest::Md5, Rounding::Single);

const SERVER: &str = "{server}";
const HOST_PORT: &str = "{host}:{port}";

const C_CHAR: &str = "on arm64 the client places non-ASCII keys elsewhere; with auto-eject, other keys for a while";

const LIBMEMCACHED: Values<KeyHash> = &[
    ("default", OneAtATime),
    ("md5", Md5),
    ("crc", Crc15),
    ("fnv1_64", Fnv1W64),
    ("fnv1a_64", Fnv1aW64),
    ("fnv1_32", Fnv1W32),
    ("fnv1a_32", Fnv1aW32),
    ("murmur", Murmur2),
    ("jenkins", Jenkins),
];

const SPYMEMCACHED: Values<KeyHash> = &[
    ("native", Java),
    ("crc", Crc15),
    ("fnv1_64", SpyFnv1W64),
    ("fnv1a_64", SpyFnv1aW64),
    ("fnv1_32", SpyFnv1W32),
    ("fnv1a_32", SpyFnv1aW32),
    ("ketama", Md5),
];

/// Most points of a node of Cache::Memcached::Fast.
const MAX_POINTS: u32 = 10_000;

const fn modulo(hash: KeyHash) -> Family {
    Family::Modulo { hash, weighted: false }
}

const fn weighted(hash: KeyHash) -> Family {
    Family::Modulo { hash, weighted: true }
}

const fn ketama(points: Points, hash: KeyHash, name: &'static str) -> Family {
    Family::Ketama { points, hash, name }
}

/// Our own.
pub(super) fn ring() -> &'static Preset {
    PRESETS.first().unwrap_or(&NONE)
}

/// Most names that are suggested.
const SUGGESTED: usize = 5;

/// What was perhaps meant by a name that no preset has: those for a client of that name, else the nearest.
pub(super) fn meant(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let words =
        |text: &str| text.to_ascii_lowercase().split(|c: char| c != '-' && !c.is_alphanumeric()).any(|w| w == name);
    let is_meant = |preset: &&Preset| words(preset.clients) || preset.name.split('-').any(|part| part == name);
    let exact = PRESETS.iter().filter(|preset| preset.name == name);
    let named = exact.chain(PRESETS.iter().filter(is_meant).filter(|_| !name.is_empty()));
    let mut meant: Vec<&str> = named.map(|preset| preset.name).collect();
    if meant.first() == Some(&&*name) {
        meant.truncate(1);
    }
    if meant.is_empty() || meant.len() > SUGGESTED {
        let near = PRESETS.iter().map(|preset| (strsim::jaro_winkler(preset.name, &name), preset.name));
        let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(near, _)| *near > 0.7);
        meant = nearest.map(|(_, name)| name).into_iter().collect();
    }
    meant
}

// === impl Preset ===

impl Preset {
    /// Its options, for a message and for `slipring placements`: `hash=md5|crc`, comma separated.
    #[must_use]
    pub fn options(&self) -> String {
        let words = |values: Vec<&str>| values.join("|");
        let mut options = Vec::new();
        if !self.choice.is_empty() {
            options.push(format!("{}={}", self.choice, words(self.variants.iter().map(|(word, _)| *word).collect())));
        }
        if !self.hashes.is_empty() {
            options.push(format!("hash={}", words(self.hashes.iter().map(|(word, _)| *word).collect())));
        }
        options.extend(self.options.iter().map(|option| (*option).to_owned()));
        options.join(", ")
    }

    /// The preset with each value of its options, other than the default.
    pub(super) fn variations(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let bases: Vec<(String, Family)> = self
            .variants
            .iter()
            .map(|(word, family)| match self.choice {
                "" => (self.name.to_owned(), *family),
                choice => (format!("{},{choice}={word}", self.name), *family),
            })
            .collect();
        for (index, (base, family)) in bases.iter().enumerate() {
            if index > 0 {
                texts.push(base.clone());
            }
            let base = if index == 0 { self.name } else { base };
            // A choice that does not exist or changes nothing is no variation.
            let hashes = self
                .hashes
                .iter()
                .filter(|(word, hash)| self.check(*family, word, *hash).is_ok_and(|changed| changed != *family));
            texts.extend(hashes.map(|(word, _)| format!("{base},hash={word}")));
        }
        if self.options.contains(&"ketama-points") {
            texts.push(format!("{},ketama-points=150", self.name));
        }
        texts
    }

    /// The algorithm and the part of the key that these options choose.
    pub(super) fn configured(&'static self, given: &[(String, &str)]) -> Result<(Family, Portion), PlacementError> {
        let wrong = |option, value: &str, expected: String| {
            PlacementError::Value(self.name, option, value.to_owned(), expected)
        };
        let list = |words: Vec<&str>| format!("one of {}", words.join(", "));
        let mut family = self.variants.first().map_or(Family::Ring, |(_, family)| *family);
        let mut portion = Portion::default();
        if matches!(family, Family::Ch3) {
            // mcrouter hashes what stands before it.
            let _ = portion.set("stop", "|#|");
        }
        if let Some((_, value)) = given.iter().find(|(option, _)| !self.choice.is_empty() && option == self.choice) {
            let chosen = self.variants.iter().find(|(word, _)| word == value);
            let expected = || list(self.variants.iter().map(|(word, _)| *word).collect());
            family = chosen.ok_or_else(|| wrong(self.choice, value, expected()))?.1;
        }
        for (option, value) in given.iter().filter(|(option, _)| self.choice.is_empty() || option != self.choice) {
            if option == "hash" && !self.hashes.is_empty() {
                let hash = self.hashes.iter().find(|(word, _)| word == value);
                let expected = || list(self.hashes.iter().map(|(word, _)| *word).collect());
                let hash = hash.ok_or_else(|| wrong("hash", value, expected()))?.1;
                family = self.check(family, value, hash).map_err(|expected| wrong("hash", value, expected))?;
                continue;
            }
            let Some(option) = self.options.iter().find(|known| *known == option) else {
                return Err(PlacementError::Option(self.name, option.clone(), self.options()));
            };
            match (*option, family) {
                ("seed", Family::Jump { .. }) => {
                    family = Family::Jump { seed: XxHash3_64::oneshot(value.as_bytes()) };
                }
                ("seed", _) => return Err(wrong("seed", value, "none but with jump".to_owned())),
                ("ketama-points", _) => {
                    let points = value.parse().ok().filter(|points| (1..=MAX_POINTS).contains(points));
                    let expected = || format!("a number from 1 to {MAX_POINTS}");
                    family = Family::PerlFast { points: points.ok_or_else(|| wrong(option, value, expected()))? };
                }
                _ => portion.set(option, value).map_err(|expected| wrong(option, value, expected.to_owned()))?,
            }
        }
        Ok((family, portion))
    }

    /// The algorithm with this hash, or what would be right.
    fn check(&self, family: Family, word: &str, hash: KeyHash) -> Result<Family, String> {
        match family {
            // Its points are XXH3 or MD5 whatever the keys are hashed with.
            Family::Ketama { points, name, .. } if self.name == "memcached-proxy" => {
                Ok(Family::Ketama { points, hash, name })
            }
            Family::Jump { .. } => Err("none with mode=jump".to_owned()),
            // Its consistent locator makes four points of an MD5, and one of anything else.
            Family::Ketama { name, .. } if self.name == "spymemcached-ketama" && hash != Md5 => {
                Ok(ketama(Points::Each(hash, 160), hash, name))
            }
            Family::Modulo { .. } if self.name == "php-memcache" => match word {
                "crc32" => Ok(family),
                _ => Err("crc32 with strategy=standard".to_owned()),
            },
            family => family.with_hash(hash).ok_or_else(|| "none".to_owned()),
        }
    }
}
