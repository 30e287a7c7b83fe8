//! Scripts from text.

use base::Duration;
use engine::How;
use wire::TcpFlags;

use crate::packet::{Extension, Family, Fault};
use crate::script::{Action, Answer, Call, For, Opt, SETTINGS, Script, Step, Wait};
use crate::segment::{Cookie, Field, Options, Pattern, Report, SCRIPT_PORT};

/// All scripts of one file.
///
/// # Errors
/// File, line and what is wrong there.
pub fn scripts(file: &str, text: &str) -> Result<Vec<Script>, String> {
    let mut all: Vec<Script> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let wrong = |why: String| format!("{file}:{number}: {why}: `{line}`");
        if let Some(name) = line.strip_prefix("script ") {
            all.push(Script {
                name: name.to_owned(),
                rfc: String::new(),
                differs: None,
                only: None,
                mtu: 1500,
                settings: Vec::new(),
                family: Family::V4,
                file: file.to_owned(),
                steps: Vec::new(),
            });
            continue;
        }
        let Some(script) = all.last_mut() else {
            return Err(wrong("a line before the first `script NAME`".into()));
        };
        if let Some(rest) = line.strip_prefix("open") {
            script.steps.extend(open(number, rest.trim()).map_err(wrong)?);
        } else if !header(script, line).map_err(wrong)? {
            script.steps.push(step(number, line).map_err(wrong)?);
        }
    }
    for script in &all {
        let differs = script.steps.iter().any(|s| s.whose != For::Both);
        if script.rfc.is_empty() {
            return Err(format!("{file}: script `{}` names no rfc", script.name));
        }
        if differs && script.differs.is_none() {
            return Err(format!(
                "{file}: script `{}` has @ lines but does not say why (`differs ...`)",
                script.name
            ));
        }
    }
    Ok(all)
}

/// Takes `line` if it describes the script instead of being a step.
fn header(script: &mut Script, line: &str) -> Result<bool, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "rfc" => rest.clone_into(&mut script.rfc),
        "differs" => script.differs = Some(rest.to_owned()),
        "mtu" => script.mtu = number(rest)?,
        "setting" => {
            let (name, value) = rest.split_once(' ').ok_or("expected `setting NAME N`")?;
            let known = SETTINGS.iter().find(|known| **known == name);
            let known = known.ok_or_else(|| format!("no setting {name}: {SETTINGS:?}"))?;
            script.settings.push((known, number(value)?));
        }
        "ip" => {
            script.family = match rest {
                "4" => Family::V4,
                "6" => Family::V6,
                _ => return Err("expected `ip 4` or `ip 6`".into()),
            };
        }
        "only" => {
            let (who, why) = rest.split_once(' ').ok_or("expected `only engine|linux REASON`")?;
            let who = match who {
                "engine" => For::Engine,
                "linux" => For::Linux,
                _ => return Err("expected engine or linux".into()),
            };
            script.only = Some((who, why.to_owned()));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `open [win N] [<options>]`: the five lines of a usual passive opening, N being the window after it and the options
/// those of the SYN.
fn open(line: usize, rest: &str) -> Result<Vec<Step>, String> {
    let (fields, options) = rest.split_once('<').map_or((rest, "mss 1460>"), |(f, o)| (f, o));
    let echo = if options.contains("ts ") { " <ts 110 last>" } else { "" };
    let win = if fields.is_empty() { "win 65535" } else { fields };
    let lines = [
        "listen".to_owned(),
        format!("+0 < S 0 win 65535 <{options}"),
        "+0 > S. 0 ack 1".to_owned(),
        format!("+0.01 < . 1 ack 1 {win}{echo}"),
        "+0.01 accept".to_owned(),
    ];
    lines.iter().map(|text| step(line, text)).collect()
}

fn step(line: usize, text: &str) -> Result<Step, String> {
    let (whose, text) = match text.split_once(' ') {
        Some(("@engine", rest)) => (For::Engine, rest.trim()),
        Some(("@linux", rest)) => (For::Linux, rest.trim()),
        Some(_) | None => (For::Both, text),
    };
    let (after, text) = match text.strip_prefix('+') {
        Some(timed) => {
            let (time, rest) = timed.split_once(char::is_whitespace).ok_or("a time without an action")?;
            (wait(time)?, rest.trim())
        }
        None => (Wait { from: Duration::from_micros(0), to: Duration::from_micros(0) }, text),
    };
    Ok(Step { line, whose, after, action: action(text)? })
}

fn wait(text: &str) -> Result<Wait, String> {
    let seconds = |t: &str| -> Result<Duration, String> {
        let value: f64 = t.parse().map_err(|_| format!("`{t}` is no time in seconds"))?;
        if (0.0..=100_000.0).contains(&value) {
            Ok(Duration::from_micros((value * 1e6) as u64))
        } else {
            Err(format!("`{t}` is out of range (0 to 100000 s)"))
        }
    };
    match text.split_once("..") {
        Some((from, to)) => Ok(Wait { from: seconds(from)?, to: seconds(to)? }),
        None => seconds(text).map(|t| Wait { from: t, to: t }),
    }
}

fn action(text: &str) -> Result<Action, String> {
    if let Some(segment) = text.strip_prefix('<') {
        return match segment.trim().strip_prefix("icmp ") {
            Some(error) => report(error).map(Action::Report),
            None => pattern(segment).map(Action::Inject),
        };
    }
    if let Some(segment) = text.strip_prefix('>') {
        return pattern(segment).map(Action::Expect);
    }
    if text == "quiet" {
        return Ok(Action::Quiet);
    }
    let (verb, answer) = match text.split_once("->") {
        Some((verb, answer)) => (verb.trim(), answer.trim()),
        None => (text, "ok"),
    };
    let answer = match answer.parse() {
        _ if answer == "ok" => Answer::Ok,
        Ok(n) => Answer::Number(n),
        Err(_) => Answer::Word(answer.to_owned()),
    };
    call(verb).map(|call| Action::Call(call, answer))
}

fn call(text: &str) -> Result<Call, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok(match words.as_slice() {
        ["listen"] => Call::Listen(16),
        ["listen", backlog] => Call::Listen(number(backlog)?),
        ["connect"] => Call::Connect,
        ["connected"] => Call::Connected,
        ["accept"] => Call::Accept,
        ["send", "first", n] => Call::SendFirst(number(n)?),
        ["send", n] => Call::Send(number(n)?),
        ["send", n, "more"] => Call::SendMore(number(n)?),
        ["send", n, "urgent"] => Call::SendUrgent(number(n)?),
        ["recv", "urgent"] => Call::RecvUrgent { peek: false },
        ["recv", "urgent", "peek"] => Call::RecvUrgent { peek: true },
        ["recv", n] => Call::Recv(number(n)?),
        ["recv", n, "past", "urgent"] => Call::RecvPast(number(n)?),
        ["mark"] => Call::AtMark,
        ["close"] => Call::Close,
        ["close", "listener"] => Call::CloseListener,
        ["shutdown", "rd"] => Call::Shutdown(How::Read),
        ["shutdown", "wr"] => Call::Shutdown(How::Write),
        ["shutdown", "rdwr"] => Call::Shutdown(How::Both),
        ["set", option, value] => Call::Set(option_of(option)?, number(value)?),
        ["error"] => Call::TakeError,
        ["poll"] => Call::Poll,
        ["state"] => Call::State,
        ["unread"] => Call::Unread,
        _ => return Err("no such call".into()),
    })
}

fn option_of(name: &str) -> Result<Opt, String> {
    Ok(match name {
        "nodelay" => Opt::NoDelay,
        "cork" => Opt::Cork,
        "keepalive" => Opt::KeepAlive,
        "keepidle" => Opt::KeepIdle,
        "keepintvl" => Opt::KeepInterval,
        "keepcnt" => Opt::KeepCount,
        "linger" => Opt::Linger,
        "user_timeout" => Opt::UserTimeout,
        "rcvbuf" => Opt::RcvBuf,
        "sndbuf" => Opt::SndBuf,
        "ttl" => Opt::Ttl,
        "max_pacing_rate" => Opt::MaxPacingRate,
        "fastopen" => Opt::FastOpen,
        "fastopen_key" => Opt::FastOpenKey,
        "fastopen_connect" => Opt::FastOpenConnect,
        "fastopen_no_cookie" => Opt::FastOpenBare,
        "oobinline" => Opt::UrgentInline,
        "recverr" => Opt::RecvErr,
        "md5" => Opt::Md5,
        _ => return Err(format!("no such option as {name}")),
    })
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of the right size"))
}

/// `too-big MTU SEQ[:END]` or `unreachable|time-exceeded|parameter-problem CODE SEQ[:END]`.
fn report(text: &str) -> Result<Report, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (fault, numbers) = match words.as_slice() {
        ["too-big", mtu, numbers] => (Fault::TooBig(number(mtu)?), numbers),
        ["unreachable", code, numbers] => (Fault::Unreachable(number(code)?), numbers),
        ["time-exceeded", code, numbers] => (Fault::TimeExceeded(number(code)?), numbers),
        ["parameter-problem", code, numbers] => (Fault::ParameterProblem(number(code)?), numbers),
        _ => return Err("expected `icmp too-big MTU SEQ:END` or `icmp unreachable|time-exceeded|parameter-problem CODE SEQ:END`".into()),
    };
    let (seq, len) = range(numbers)?;
    Ok(Report { fault, seq, len })
}

/// `SEQ[:END]`: the first number, and how many.
fn range(text: &str) -> Result<(u32, u32), String> {
    let (seq, end) = match text.split_once(':') {
        Some((seq, end)) => (number::<u32>(seq)?, number::<u32>(end)?),
        None => (number(text)?, number(text)?),
    };
    let len = end.wrapping_sub(seq);
    if len > 65_000 {
        return Err("the segment ends before it begins, or is too long".into());
    }
    Ok((seq, len))
}

/// `FLAGS SEQ[:END] [ack N] [win N] [urg N] [port N] [ecn N] [ext hop|dst|frag] [<options>]`.
fn pattern(text: &str) -> Result<Pattern, String> {
    let (text, options) = match text.split_once('<') {
        Some((before, rest)) => {
            let inside = rest.strip_suffix('>').ok_or("options without an end")?;
            (before, options(inside)?)
        }
        None => (text, Options::NONE),
    };
    let mut words = text.split_whitespace();
    let flags = flags(words.next().ok_or("no flags")?)?;
    let numbers = words.next().ok_or("no sequence number")?;
    let (seq, len) = range(numbers)?;
    let mut pattern = Pattern {
        flags,
        seq,
        len,
        ack: Field::Any,
        win: Field::Any,
        urgent: None,
        options,
        port: SCRIPT_PORT,
        ecn: None,
        extension: None,
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or("a field without its value")?;
        match word {
            "ack" => pattern.ack = field(value)?,
            "win" => pattern.win = field(value)?,
            "urg" => pattern.urgent = Some(number(value)?),
            "port" => pattern.port = number(value)?,
            "ecn" => pattern.ecn = Some(number(value)?),
            "ext" => {
                pattern.extension = Some(match value {
                    "hop" => Extension::Hop,
                    "dst" => Extension::Dst,
                    "frag" => Extension::Frag,
                    _ => return Err(format!("no such extension header as {value}")),
                });
            }
            _ => return Err(format!("no such field as {word}")),
        }
    }
    Ok(pattern)
}

fn field<T: core::str::FromStr>(text: &str) -> Result<Field<T>, String> {
    Ok(match text {
        "*" => Field::Any,
        "last" => Field::Last,
        _ => Field::Is(number(text)?),
    })
}

fn flags(text: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::NONE;
    for letter in text.chars() {
        flags = flags.with(match letter {
            'S' => TcpFlags::SYN,
            'F' => TcpFlags::FIN,
            'R' => TcpFlags::RST,
            'P' => TcpFlags::PSH,
            'U' => TcpFlags::URG,
            'E' => TcpFlags::ECE,
            'W' => TcpFlags::CWR,
            '.' => TcpFlags::ACK,
            '-' => TcpFlags::NONE,
            _ => return Err(format!("no such flag as {letter}")),
        });
    }
    Ok(flags)
}

fn options(text: &str) -> Result<Options, String> {
    let mut options = Options { given: true, ..Options::NONE };
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words.as_slice() {
            ["mss", n] => options.mss = Some(field(n)?),
            ["wscale", n] => options.scale = Some(field(n)?),
            ["sackOK"] => options.sack_ok = true,
            ["md5", n] => options.md5 = Some(number(n)?),
            ["FO"] => options.fast_open = Some(Cookie::Is(Vec::new())),
            ["FO", "*"] => options.fast_open = Some(Cookie::Any),
            ["FO", "last"] => options.fast_open = Some(Cookie::Last),
            ["FO", digits] => options.fast_open = Some(Cookie::Is(bytes(digits)?)),
            ["ts", value, echo] => options.ts = Some((field(value)?, field(echo)?)),
            ["sack", blocks @ ..] => {
                for block in blocks {
                    let (left, right) = block.split_once(':').ok_or("a SACK block is LEFT:RIGHT")?;
                    options.sack.push((number(left)?, number(right)?));
                }
            }
            _ => return Err(format!("no such option as {part}")),
        }
    }
    Ok(options)
}

/// Bytes written as pairs of hexadecimal digits.
fn bytes(digits: &str) -> Result<Vec<u8>, String> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| core::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
    let all: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    all.filter(|_| rest.is_empty()).ok_or_else(|| format!("`{digits}` are no bytes in hexadecimal digits"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_with_its_times_and_fields() {
        let text = "script one\nrfc 9293 3.5\nlisten 3\n+0.5 < S 0 win 100 <mss 1460,sackOK>\n+0..0.1 > S. 0 ack 1 # x\naccept -> EAGAIN\n";
        let script = scripts("f", text).unwrap().remove(0);
        assert_eq!((script.steps.len(), script.steps[1].after.from), (4, Duration::from_micros(500_000)));
        let Action::Inject(syn) = &script.steps[1].action else { panic!() };
        assert_eq!((syn.win, syn.options.mss), (Field::Is(100), Some(Field::Is(1460))));
        assert!(
            matches!(&script.steps[3].action, Action::Call(Call::Accept, Answer::Word(w)) if w == "EAGAIN")
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, why) in [
            ("listen", "f:1: a line before"),
            ("script x\nrfc 1\nfly", "f:3: no such call"),
            ("script x\nlisten", "names no rfc"),
            ("script x\nrfc 1\n@linux listen", "does not say why"),
            ("script x\nrfc 1\n< Z 0", "no such flag"),
            ("script x\nrfc 1\n< . 9:1", "ends before"),
            ("script x\nrfc 1\nip 5", "expected `ip 4` or `ip 6`"),
            ("script x\nrfc 1\n< icmp too-big 1:2", "expected `icmp too-big"),
            ("script x\nrfc 1\n< . 1 ext none", "no such extension header"),
        ] {
            let error = scripts("f", text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
