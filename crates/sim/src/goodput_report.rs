//! `corelane-sim goodput`: plays the cases, prints a table, writes JSON and a page. Leaves out what is measured and how.

use std::process::{Command, ExitCode};

use base::Duration;
use sim::goodput::{Case, GOAL, HEAD, Plan, Row, play};

/// What to do.
struct Order {
    plan: Plan,
    only: Vec<String>,
    json: Option<String>,
    page: Option<String>,
    words: String,
}

/// Plays what `args` ask for.
///
/// # Errors
/// An option that is not known, what an oracle found, a file that cannot be written.
pub(crate) fn run(args: impl Iterator<Item = String>) -> Result<ExitCode, String> {
    let order = parse(args)?;
    println!("{HEAD}");
    let mut rows = Vec::new();
    for case in Case::all() {
        let name = case.name();
        if !order.only.is_empty() && !order.only.iter().any(|only| name.contains(only)) {
            continue;
        }
        let row = play(case, &order.plan).map_err(|why| format!("{name}: {why}"))?;
        println!("{}", row.line());
        if row.spoilt > 0 {
            eprintln!("{name}: {} runs on Linux were thrown away, their path was late", row.spoilt);
        }
        rows.push(row);
    }
    if order.plan.linux {
        println!("{}", lateness(&rows));
    }
    if let Some(file) = &order.json {
        std::fs::write(file, json(&rows)).map_err(|e| format!("cannot write {file}: {e}"))?;
    }
    if let Some(file) = &order.page {
        std::fs::write(file, page(&order, &rows)?).map_err(|e| format!("cannot write {file}: {e}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Order, String> {
    let plan = Plan { linux: false, time: Duration::from_secs(15), runs: 3, jobs: 4 };
    let mut order = Order { plan, only: Vec::new(), json: None, page: None, words: String::new() };
    while let Some(name) = args.next() {
        if name == "--linux" {
            order.plan.linux = true;
            order.words += " --linux";
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = |least: u64, most: u64| match value.parse::<u64>() {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            Ok(_) | Err(_) => Err(format!("{name} {value}: a number from {least} to {most} is wanted")),
        };
        match name.as_str() {
            "--seconds" => order.plan.time = Duration::from_secs(number(1, 3600)?),
            "--runs" => order.plan.runs = number(1, 1000)?,
            "--jobs" => order.plan.jobs = number(1, 64)? as usize,
            "--only" => order.only.push(value.clone()),
            "--json" => order.json = Some(value.clone()),
            "--page" => order.page = Some(value.clone()),
            _ => return Err(format!("goodput: unknown option {name} (corelane-sim --help lists them)")),
        }
        if name != "--json" && name != "--page" {
            order.words += &format!(" {name} {value}");
        }
    }
    Ok(order)
}

/// How far the path on Linux can be trusted.
fn lateness(rows: &[Row]) -> String {
    let packets: u64 = rows.iter().map(|r| r.late.packets).sum();
    let too_late: u64 = rows.iter().map(|r| r.late.too_late).sum();
    let most = rows.iter().map(|r| r.late.most).max().unwrap_or(Duration::ZERO);
    let spoilt: u32 = rows.iter().map(|r| r.spoilt).sum();
    format!(
        "On Linux {packets} packets went over the path, {too_late} of them more than a millisecond late, the latest by {:.1} ms; \
         {spoilt} runs were thrown away because their path was late.",
        most.0 as f64 / 1e6
    )
}

/// Of quartiles the middle one.
fn median([_, median, _]: [f64; 3]) -> f64 {
    median
}

fn json(rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |v| format!("{v:.4}"));
    let lines = rows.iter().flat_map(|row| {
        let linux = row.linux.as_ref().and_then(|l| l.as_ref().ok());
        let why = row.linux.as_ref().and_then(|l| l.as_ref().err()).map_or("", String::as_str);
        let peer = if row.linux.is_some() { "\"linux\"" } else { "null" };
        let goal = if row.linux.is_some() { number(Some(GOAL)) } else { number(None) };
        let reached = row.ratio().map_or_else(|| "null".to_owned(), |r| (r >= GOAL).to_string());
        let name = row.case.name();
        let goodput = format!(
            "  {{\"id\": \"goodput-{name}\", \"value\": {:.4}, \"unit\": \"Mb/s\", \"peer\": {peer}, \"peer_value\": {}, \
             \"ratio\": {}, \"goal\": {goal}, \"reached\": {reached}, \"note\": \"{}\"}}",
            row.ours.rate(),
            number(linux.map(|l| l.rate())),
            number(row.ratio()),
            why.replace(['"', '\\'], "'"),
        );
        let fairness = (row.case.flows > 1).then(|| {
            format!(
                "  {{\"id\": \"jain-{name}\", \"value\": {:.4}, \"unit\": \"Jain's index\", \"peer\": {peer}, \"peer_value\": {}, \
                 \"ratio\": null, \"goal\": null, \"reached\": null, \"note\": \"\"}}",
                median(row.ours.jain()),
                number(linux.map(|l| median(l.jain()))),
            )
        });
        std::iter::once(goodput).chain(fairness)
    });
    format!("[\n{}\n]\n", lines.collect::<Vec<_>>().join(",\n"))
}

fn first_line(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    Ok(String::from_utf8_lossy(&done.stdout).lines().next().unwrap_or_default().to_owned())
}

fn page(order: &Order, rows: &[Row]) -> Result<String, String> {
    let table: Vec<String> = rows.iter().map(Row::line).collect();
    let plan = &order.plan;
    Ok(format!(
        "{}\n\nMeasured {} on {} {} with `cargo xtask sim goodput{}`: {} runs of {} s a case (8 of BBR with losses, 3 where nothing is lost; two flows: 12 runs at most, three times as long, begun 0.5 to 0.9 s apart), {}. \
         After ± stands the standard error of the mean.\n\n{HEAD}\n{}\n\n{}\n{}",
        include_str!("goodput_head.md").trim_end(),
        first_line("date", &["-u", "+%F"])?,
        first_line("uname", &["-s"])?,
        first_line("uname", &["-r"])?,
        order.words,
        plan.runs,
        plan.time.0 / 1_000_000_000,
        first_line("nproc", &[])? + " processors",
        table.join("\n"),
        lateness(rows),
        include_str!("goodput_tail.md"),
    ))
}
