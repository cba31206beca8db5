//! A report as a table for programs, and as a document for people.

use super::form::{Report, ReportFigures, ReportLine};
use crate::export::pdf::{Document, Section};

/// Columns of CSV. `section` says what a row is of: totals, a list, a field of the grant, or a statement on how it was measured.
const COLUMNS: [&str; 16] = [
    "section",
    "name",
    "start",
    "end",
    "direct_costs",
    "charged",
    "posted",
    "provisional",
    "held_seconds",
    "busy_seconds",
    "unpriced_seconds",
    "energy_joules",
    "cpu_seconds",
    "unpriced_cpu_seconds",
    "ram_byte_seconds",
    "methods",
];

/// Lists that a report has, by name.
fn lists(report: &Report) -> impl Iterator<Item = (&'static str, &Vec<ReportLine>)> {
    let all = [
        ("period", &report.periods),
        ("month", &report.months),
        ("account", &report.accounts),
        ("user", &report.users),
        ("partition and model", &report.resources),
        ("owner kind", &report.evidence),
    ];
    all.into_iter().filter_map(|(name, lines)| Some((name, lines.as_ref()?)))
}

/// Rows with all columns, a line of names first.
pub(super) fn csv(report: &Report) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for (name, value) in report.grant.fields() {
        writer.write_record(text_row("grant", &format!("{name}: {value}")))?;
    }
    let totals = [report.start_date.clone(), report.end_date.clone()];
    writer.write_record(row("totals", &report.currency, totals, "", &report.totals))?;
    for (section, lines) in lists(report) {
        for line in lines {
            let of = |name: &str| line.key.get(name).cloned().unwrap_or_default();
            let direct = line.direct_costs.as_deref().unwrap_or_default();
            let times = [of("start"), of("end")];
            writer.write_record(row(section, &name(line), times, direct, &line.figures))?;
        }
    }
    for statement in &report.measurement.statements {
        writer.write_record(text_row("measured", statement))?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

/// What a line is called, its times left out.
fn name(line: &ReportLine) -> String {
    let parts = line.key.iter().filter(|(name, _)| !matches!(name.as_str(), "start" | "end"));
    // By partition first, and then by model.
    let mut parts: Vec<&str> = parts.map(|(_, value)| value.as_str()).collect();
    parts.reverse();
    parts.join(", ")
}

fn row(
    section: &str,
    name: &str,
    [start, end]: [String; 2],
    direct: &str,
    figures: &ReportFigures,
) -> [String; 16] {
    let ReportFigures { charged, posted, provisional, .. } = figures.clone();
    [
        section.to_owned(),
        inert(name),
        start,
        end,
        direct.to_owned(),
        charged,
        posted,
        provisional,
        figures.held_seconds.clone(),
        figures.busy_seconds.clone(),
        figures.unpriced_seconds.clone(),
        figures.energy_joules.clone(),
        figures.cpu_seconds.clone(),
        figures.unpriced_cpu_seconds.clone(),
        figures.ram_byte_seconds.clone(),
        figures.methods.join(" "),
    ]
}

/// A text that a spreadsheet takes for one, also where it begins as a formula does: then behind an apostrophe.
fn inert(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula { format!("'{text}") } else { text.to_owned() }
}

fn text_row(section: &str, text: &str) -> [String; 16] {
    std::array::from_fn(|at| match at {
        0 => section.to_owned(),
        1 => inert(text),
        _ => String::new(),
    })
}

/// For people.
pub(super) fn document(report: &Report) -> Document {
    let grant = report.grant.fields();
    let number =
        grant.iter().find(|(name, _)| *name == "grant_number").map_or("", |(_, value)| value.as_str());
    let title = format!("Grant {number}: {} report", report.report_type.name());
    let mut sections = vec![
        Section {
            title: "Grant".to_owned(),
            lines: grant.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
            table: Vec::new(),
        },
        Section {
            title: format!(
                "Charged from {} to {}, in {}",
                report.start_date, report.end_date, report.currency
            ),
            lines: totals(&report.totals),
            table: Vec::new(),
        },
    ];
    for (section, lines) in lists(report) {
        let mut table =
            vec![["charged", "posted", "provisional", "held s", "unpriced s"].map(str::to_owned).to_vec()];
        table[0].insert(0, section.to_owned());
        table.extend(lines.iter().map(table_row));
        sections.push(Section { title: format!("By {section}"), lines: Vec::new(), table });
    }
    sections.push(Section {
        title: "How each figure was measured".to_owned(),
        lines: report.measurement.statements.clone(),
        table: Vec::new(),
    });
    let foot = format!("Grant {number}, made at {}", report.generated_at);
    Document { title, foot, sections }
}

fn totals(figures: &ReportFigures) -> Vec<String> {
    let ReportFigures { charged, posted, provisional, held_seconds, .. } = figures;
    vec![
        format!("charged: {charged}, of it {posted} posted and {provisional} provisional"),
        format!(
            "held_seconds: {held_seconds}, busy_seconds: {}, unpriced_seconds: {}",
            figures.busy_seconds, figures.unpriced_seconds
        ),
        format!(
            "energy_joules: {}, cpu_seconds: {}, unpriced_cpu_seconds: {}, ram_byte_seconds: {}",
            figures.energy_joules,
            figures.cpu_seconds,
            figures.unpriced_cpu_seconds,
            figures.ram_byte_seconds
        ),
        format!("methods: {}", figures.methods.join(", ")),
    ]
}

fn table_row(line: &ReportLine) -> Vec<String> {
    let day = |field: &str| line.key.get(field).map(|at| at.chars().take(10).collect::<String>());
    let name = match (day("start"), day("end")) {
        (Some(start), Some(end)) => format!("{} ({start} to {end})", name(line)),
        _ => name(line),
    };
    let ReportFigures { charged, posted, provisional, held_seconds, unpriced_seconds, .. } =
        line.figures.clone();
    // Seconds with three places: whoever wants all of them reads JSON or CSV.
    let short = |seconds: String| seconds.get(..seconds.len().saturating_sub(6)).unwrap_or("").to_owned();
    vec![name, charged, posted, provisional, short(held_seconds), short(unpriced_seconds)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_a_formula_to_a_spreadsheet() {
        for (name, shown) in [
            ("=HYPERLINK(\"http://x\")", "'=HYPERLINK(\"http://x\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\tx", "'\tx"),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            assert_eq!(inert(name), shown);
        }
    }
}
