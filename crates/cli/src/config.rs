//! Settings from three places, the later winning: one TOML file (and one of its profiles), CORELANE_* variables, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keeper::{DeviceSpec, HugePages, PortChoice, RegionSizes, Spin};
use serde::Deserialize;

use crate::args::SettingArgs;
use crate::failure::Failure;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "/etc/corelane.toml";

/// One layer of settings; `None`: this layer does not say.
#[derive(Deserialize, Clone, Default, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Layer {
    device: Option<OneOrMany>,
    port: Option<String>,
    user: Option<String>,
    sockets: Option<u32>,
    frames: Option<u32>,
    huge_pages: Option<String>,
    spin_us: Option<NumberOrWord>,
    keeper: Option<String>,
}

/// `device = "eth1"` or `device = ["eth1", "eth2"]`.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// `spin_us = 20` or `spin_us = "auto"`.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
enum NumberOrWord {
    Number(u32),
    Word(String),
}

impl NumberOrWord {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Word(word) => word,
        }
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Layer {
    /// These settings, with those of `other` where it has any.
    fn under(self, other: Self) -> Self {
        Self {
            device: other.device.or(self.device),
            port: other.port.or(self.port),
            user: other.user.or(self.user),
            sockets: other.sockets.or(self.sockets),
            frames: other.frames.or(self.frames),
            huge_pages: other.huge_pages.or(self.huge_pages),
            spin_us: other.spin_us.or(self.spin_us),
            keeper: other.keeper.or(self.keeper),
        }
    }

    fn from_flags(args: &SettingArgs) -> Self {
        Self {
            device: Some(args.device.clone()).filter(|d| !d.is_empty()).map(OneOrMany::Many),
            port: args.port.clone(),
            user: args.user.clone(),
            sockets: args.sockets,
            frames: args.frames,
            huge_pages: args.huge_pages.clone(),
            spin_us: args.spin_us.clone().map(NumberOrWord::Word),
            keeper: args.keeper.clone(),
        }
    }

    fn from_environment(get: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match text.trim().parse() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(Failure::new(format!("reading {name}"), format!("`{text}` is not a number"))),
            },
        };
        let list = |text: String| OneOrMany::Many(text.split_whitespace().map(str::to_owned).collect());
        Ok(Self {
            device: get("CORELANE_DEVICE").map(list),
            port: get("CORELANE_PORT"),
            user: get("CORELANE_USER"),
            sockets: number("CORELANE_SOCKETS")?,
            frames: number("CORELANE_FRAMES")?,
            huge_pages: get("CORELANE_HUGE_PAGES"),
            spin_us: get("CORELANE_SPIN_US").map(NumberOrWord::Word),
            // CORELANE_KEEPER is for the programs: the name of their run's keeper.
            keeper: get("CORELANE_USE_KEEPER"),
        })
    }
}

/// The settings after all layers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Devices; empty: every usable one.
    pub(crate) devices: Vec<DeviceSpec>,
    /// The same as the user wrote them.
    pub(crate) device_texts: Vec<String>,
    pub(crate) port: PortChoice,
    pub(crate) user: Option<String>,
    pub(crate) sizes: RegionSizes,
    pub(crate) spin: Spin,
    pub(crate) keeper: KeeperChoice,
}

/// Which keeper to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeeperChoice {
    /// The shared one if it is there and allows it, else a private one.
    Auto(PathBuf),
    /// A shared one at this socket, or none.
    Shared(PathBuf),
    /// One of the run's own.
    Private,
}

impl KeeperChoice {
    /// `socket`: where a shared one listens.
    fn parse(text: &str, socket: &Path) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto(socket.to_owned())),
            "private" => Some(Self::Private),
            "shared" => Some(Self::Shared(socket.to_owned())),
            path => path.contains('/').then(|| Self::Shared(PathBuf::from(path))),
        }
    }
}

/// Reads every layer.
///
/// # Errors
/// An unreadable or wrong file, an unknown profile, a value that is none.
pub(crate) fn load(args: &SettingArgs) -> Result<Config, Failure> {
    load_with(args, &|name| std::env::var(name).ok().filter(|v| !v.is_empty()), Path::new(DEFAULT_FILE))
}

fn load_with(
    args: &SettingArgs,
    get: &impl Fn(&str) -> Option<String>,
    default_file: &Path,
) -> Result<Config, Failure> {
    let named = args.config.clone().or_else(|| get("CORELANE_CONFIG").map(PathBuf::from));
    let file = named.or_else(|| default_file.exists().then(|| default_file.to_owned()));
    let profile = args.profile.clone().or_else(|| get("CORELANE_PROFILE"));
    let from_file = match (file, profile) {
        (Some(file), profile) => read_file(&file, profile.as_deref())?,
        (None, None) => Layer::default(),
        (None, Some(name)) => {
            return Err(Failure::new(format!("profile `{name}`"), "there is no configuration file")
                .fix(format!("name one with --config FILE, or write {}", default_file.display())));
        }
    };
    let layer = from_file.under(Layer::from_environment(get)?).under(Layer::from_flags(args));
    finish(layer, get("CORELANE_KEEPER_SOCKET"))
}

fn read_file(path: &Path, profile: Option<&str>) -> Result<Layer, Failure> {
    let what = || format!("configuration file {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Failure::new(what(), e))?;
    parse_file(&text, profile).map_err(|why| Failure::new(what(), why))
}

fn parse_file(text: &str, profile: Option<&str>) -> Result<Layer, String> {
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let profiles = match table.remove("profile") {
        Some(value) => {
            value.try_into().map_err(|e: toml::de::Error| format!("in [profile]: {}", e.message()))?
        }
        None => BTreeMap::<String, Layer>::new(),
    };
    let base: Layer = table.try_into().map_err(|e: toml::de::Error| e.message().to_owned())?;
    let Some(name) = profile else { return Ok(base) };
    match profiles.get(name) {
        Some(layer) => Ok(base.under(layer.clone())),
        None => {
            let known: Vec<&str> = profiles.keys().map(String::as_str).collect();
            Err(format!(
                "no profile `{name}` in it; it has: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
        }
    }
}

fn finish(layer: Layer, socket: Option<String>) -> Result<Config, Failure> {
    let mut devices = Vec::new();
    let device_texts = layer.device.map(OneOrMany::into_vec).unwrap_or_default();
    for text in &device_texts {
        let spec = DeviceSpec::parse(text).map_err(|why| {
            Failure::new(format!("device `{text}`"), why).fix(
                "give an interface name (see `ip link`), or tap:, own: or memif:NAME=ADDRESS/PREFIX[,gw=ADDRESS]",
            )
        })?;
        devices.push(spec);
    }
    let port = match layer.port {
        None => PortChoice::Auto,
        Some(text) => PortChoice::parse(&text).ok_or_else(|| {
            Failure::new(format!("port kind `{text}`"), "unknown").fix("use auto, xdp, packet or tap")
        })?,
    };
    let spin = match layer.spin_us.map(NumberOrWord::into_text) {
        None => Spin::Auto,
        Some(text) => Spin::parse(&text).ok_or_else(|| {
            Failure::new(format!("spin_us `{text}`"), "neither a number of microseconds nor auto")
                .fix("use auto, 0 (never) or up to 1000000")
        })?,
    };
    let socket = socket.map_or_else(|| PathBuf::from(keeper::SOCKET), PathBuf::from);
    let keeper = match layer.keeper {
        None => KeeperChoice::Auto(socket),
        Some(text) => KeeperChoice::parse(&text, &socket).ok_or_else(|| {
            Failure::new(format!("keeper `{text}`"), "unknown")
                .fix("use auto, shared, private, or the path of a shared keeper's socket")
        })?,
    };
    let huge_pages = match layer.huge_pages {
        None => HugePages::default(),
        Some(text) => HugePages::parse(&text).ok_or_else(|| {
            Failure::new(format!("huge_pages `{text}`"), "unknown").fix("use off, try or need")
        })?,
    };
    let defaults = RegionSizes::default();
    let sizes = RegionSizes {
        sockets: layer.sockets.unwrap_or(defaults.sockets),
        frames: layer.frames.unwrap_or(defaults.frames),
        huge_pages,
    };
    sizes.check().map_err(|why| Failure::new("the size of a region", why))?;
    Ok(Config { devices, device_texts, port, user: layer.user, sizes, spin, keeper })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str, profile: Option<&str>) -> Layer {
        parse_file(text, profile).expect("a good file")
    }

    #[test]
    fn a_profile_overrides_the_top_of_the_file() {
        let text = "port = \"xdp\"\ndevice = \"eth1\"\n[profile.web]\nport = \"packet\"\nsockets = 5000\n";
        assert_eq!(layer(text, None).port.as_deref(), Some("xdp"));
        let web = layer(text, Some("web"));
        assert_eq!((web.port.as_deref(), web.sockets), (Some("packet"), Some(5000)));
        assert_eq!(web.device, Some(OneOrMany::One("eth1".to_owned())));
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let dir = std::env::temp_dir().join(format!("corelane-config-{}", std::process::id()));
        std::fs::write(&dir, "port = \"xdp\"\nuser = \"a\"\nsockets = 1000\nhuge_pages = \"need\"\n")
            .expect("write");
        let env = |name: &str| match name {
            "CORELANE_USER" => Some("b".to_owned()),
            "CORELANE_SOCKETS" => Some("2000".to_owned()),
            _ => None,
        };
        let args = SettingArgs { config: Some(dir.clone()), sockets: Some(3000), ..SettingArgs::default() };
        let config = load_with(&args, &env, Path::new("/nonexistent")).expect("good");
        std::fs::remove_file(dir).expect("remove");
        assert_eq!(config.port, PortChoice::Xdp);
        assert_eq!(config.user.as_deref(), Some("b"));
        assert_eq!((config.sizes.sockets, config.sizes.huge_pages), (3000, HugePages::Need));
    }

    #[test]
    fn huge_pages_are_off_tried_or_needed() {
        let read = |text: Option<&str>| {
            let args = SettingArgs { huge_pages: text.map(str::to_owned), ..SettingArgs::default() };
            load_with(&args, &|_| None, Path::new("/nonexistent")).map(|config| config.sizes.huge_pages)
        };
        assert_eq!(read(None).ok(), Some(HugePages::Off));
        assert_eq!(read(Some("try")).ok(), Some(HugePages::Try));
        let error = read(Some("yes")).expect_err("no such word");
        assert!(error.to_string().contains("huge_pages `yes`"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_known_ones() {
        let why = parse_file("devise = \"eth1\"", None).expect_err("wrong key");
        assert!(why.contains("devise") && why.contains("device"), "{why}");
    }

    #[test]
    fn an_unknown_profile_says_which_there_are() {
        let why = parse_file("[profile.web]\n[profile.db]\n", Some("wep")).expect_err("no profile");
        assert!(why.contains("db, web"), "{why}");
    }

    #[test]
    fn a_wrong_number_in_the_environment_is_named() {
        let env = |name: &str| (name == "CORELANE_FRAMES").then(|| "many".to_owned());
        let error =
            load_with(&SettingArgs::default(), &env, Path::new("/nonexistent")).expect_err("not a number");
        assert!(error.to_string().contains("CORELANE_FRAMES"), "{error}");
    }
}
