//! Which columns a version has, in their order, and what stands in each. docs/focus.md says where they come from.

use std::borrow::Cow;

use super::Version;
use super::row::{Row, hours, month, owner_name};
use super::split::METHOD;
use crate::model::{Owner, RowKind};
use crate::store::query::posted::Posting;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// In billionths.
    Amount,
    /// In nanoseconds since the Unix epoch, whole seconds.
    Time,
}

/// What stands in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Null,
    Text(Cow<'a, str>),
    Amount(i128),
    Time(i64),
}

/// A column. Exported names are the specification's; ours begin with `x_`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// May it be null?
    pub(super) optional: bool,
    since: Version,
    pub(super) cell: for<'a> fn(&'a Row<'_>) -> Cell<'a>,
}

/// The columns of a version.
pub(super) fn of(version: Version) -> Vec<&'static Column> {
    let has = |column: &&Column| column.since == Version::V1_2 || version == Version::V1_3;
    COLUMNS.iter().filter(has).collect()
}

const fn text(name: &'static str, cell: for<'a> fn(&'a Row<'_>) -> Cell<'a>) -> Column {
    Column { name, kind: Kind::Text, optional: false, since: Version::V1_2, cell }
}

const fn amount(name: &'static str, cell: for<'a> fn(&'a Row<'_>) -> Cell<'a>) -> Column {
    Column { name, kind: Kind::Amount, optional: false, since: Version::V1_2, cell }
}

const fn time(name: &'static str, cell: for<'a> fn(&'a Row<'_>) -> Cell<'a>) -> Column {
    Column { name, kind: Kind::Time, optional: false, since: Version::V1_2, cell }
}

impl Column {
    const fn or_null(self) -> Self {
        Self { optional: true, ..self }
    }

    const fn since_1_3(self) -> Self {
        Self { since: Version::V1_3, ..self }
    }
}

/// Text; null if it is empty.
fn known(text: &str) -> Cell<'_> {
    if text.is_empty() { Cell::Null } else { Cell::Text(Cow::Borrowed(text)) }
}

fn made<'a>(text: impl Into<Option<String>>) -> Cell<'a> {
    text.into().map_or(Cell::Null, |text| Cell::Text(Cow::Owned(text)))
}

fn cost<'a>(row: &Row<'_>) -> Cell<'a> {
    Cell::Amount(row.charge.figures.cost_nanos)
}

/// Hours in billionths: of a GPU, of a CPU, or of a GiB of memory; rounded down.
fn quantity<'a>(row: &Row<'_>) -> Cell<'a> {
    let figures = row.charge.figures;
    Cell::Amount(match row.charge.kind {
        RowKind::Cpu => figures.time_ns.div_euclid(3_600),
        RowKind::Memory => (figures.memory_byte_seconds * 1_000_000_000).div_euclid(3_600 << 30),
        _ => hours(row.charge.gpu_time(figures.time_ns)),
    })
}

fn unit<'a>(row: &Row<'_>) -> Cell<'a> {
    known(match row.charge.kind {
        RowKind::Cpu => "CPU-Hours",
        RowKind::Memory => "GiB-Hours",
        _ => "GPU-Hours",
    })
}

/// Seconds of the whole GPU, in billionths.
fn gpu_seconds<'a>(row: &Row<'_>, slice_ns: i128) -> Cell<'a> {
    let slice_ns = if row.is_of_job() { 0 } else { slice_ns };
    Cell::Amount(row.charge.gpu_time(slice_ns).ns())
}

fn of_owner<'a>(row: &'a Row<'_>, field: fn(&Owner) -> &String) -> Cell<'a> {
    row.owner().map_or(Cell::Null, |owner| known(field(owner)))
}

static COLUMNS: &[Column] = &[
    text("AllocatedMethodDetails", |row| made(row.split.and_then(|split| split.details.clone())))
        .or_null()
        .since_1_3(),
    text("AllocatedMethodId", |row| row.split.map_or(Cell::Null, |_| known(METHOD))).or_null().since_1_3(),
    text("AllocatedResourceId", |row| made(row.allocated_id())).or_null().since_1_3(),
    text("AllocatedResourceName", |row| made(row.allocated_name())).or_null().since_1_3(),
    text("AllocatedTags", |row| made(row.allocated_tags())).or_null().since_1_3(),
    text("AvailabilityZone", |row| known(&row.charge.facts.zone)).or_null(),
    amount("BilledCost", cost),
    text("BillingAccountId", |row| known(&row.bill.account_id)),
    text("BillingAccountName", |row| known(&row.bill.parties.account_name)),
    text("BillingCurrency", |row| known(&row.bill.currency)),
    time("BillingPeriodEnd", |row| Cell::Time(month(row.start_ns).1)),
    time("BillingPeriodStart", |row| Cell::Time(month(row.start_ns).0)),
    text("ChargeCategory", |_| known("Usage")),
    text("ChargeClass", |row| known(if row.charge.posting == Posting::Late { "Correction" } else { "" }))
        .or_null(),
    text("ChargeDescription", |row| made(row.description())),
    text("ChargeFrequency", |_| known("Usage-Based")),
    time("ChargePeriodEnd", |row| Cell::Time(row.end_ns)),
    time("ChargePeriodStart", |row| Cell::Time(row.start_ns)),
    // Always null, as InvoiceId: there are no commitments and no invoices, and rules for other columns look at both.
    text("CommitmentDiscountStatus", |_| Cell::Null).or_null(),
    amount("ConsumedQuantity", quantity),
    text("ConsumedUnit", unit),
    amount("ContractedCost", cost),
    amount("EffectiveCost", cost),
    text("HostProviderName", |row| known(&row.bill.parties.host_provider)).since_1_3(),
    text("InvoiceId", |_| Cell::Null).or_null(),
    text("InvoiceIssuerName", |row| known(&row.bill.parties.invoice_issuer)),
    amount("ListCost", cost),
    text("PricingCategory", |_| known("Standard")),
    amount("PricingQuantity", quantity),
    text("PricingUnit", unit),
    text("ProviderName", |row| known(&row.bill.parties.provider)),
    text("PublisherName", |row| known(&row.bill.parties.provider)),
    text("RegionId", |row| known(&row.charge.facts.region)).or_null(),
    text("RegionName", |row| known(&row.charge.facts.region)).or_null(),
    text("ResourceId", |row| Cell::Text(row.resource_id())),
    text("ResourceName", |row| made(row.resource_name())),
    text("ResourceType", |row| {
        known(match row.instance() {
            Some(_) => "MIG Instance",
            None if row.is_of_job() => "Slurm Partition",
            None => "GPU",
        })
    }),
    text("ServiceCategory", |_| known("Compute")),
    text("ServiceName", |row| known(if row.is_of_job() { "CPU and Memory" } else { "GPU" })),
    text("ServiceProviderName", |row| known(&row.bill.parties.provider)).since_1_3(),
    text("ServiceSubcategory", |_| known("Other (Compute)")),
    text("Tags", |row| made(row.tags())),
    text("x_Account", |row| of_owner(row, |owner| &owner.account)).or_null(),
    amount("x_BusyGpuSeconds", |row| gpu_seconds(row, row.charge.figures.busy_ns)),
    text("x_CapacityType", |row| known(&row.charge.facts.capacity_type)).or_null(),
    text("x_Cluster", |row| known(&row.charge.tenure.node.cluster)),
    text("x_Container", |row| of_owner(row, |owner| &owner.container)).or_null(),
    amount("x_EnergyJoules", |row| Cell::Amount(row.charge.figures.energy_uj * 1_000)),
    text("x_GpuModel", |row| known(if row.is_of_job() { "" } else { &row.charge.tenure.model })).or_null(),
    amount("x_GpuSeconds", |row| gpu_seconds(row, row.charge.figures.time_ns)),
    text("x_GpuUuid", |row| known(if row.is_of_job() { "" } else { &row.charge.tenure.uuid })).or_null(),
    text("x_InstanceType", |row| known(&row.charge.facts.instance_type)).or_null(),
    text("x_Job", |row| of_owner(row, |owner| &owner.job_id)).or_null(),
    text("x_Kind", |row| known(row.kind())),
    amount("x_MemoryByteSeconds", |row| {
        Cell::Amount(row.charge.figures.memory_byte_seconds.saturating_mul(1_000_000_000))
    }),
    text("x_MigProfile", |row| row.charge.instance.as_ref().map_or(Cell::Null, |mig| known(&mig.profile)))
        .or_null(),
    text("x_Namespace", |row| of_owner(row, |owner| &owner.namespace)).or_null(),
    text("x_Node", |row| known(&row.charge.tenure.node.node)).or_null(),
    text("x_Owner", |row| made(row.owner().map(owner_name))).or_null(),
    text("x_OwnerKind", |row| row.owner().map_or(Cell::Null, |owner| known(owner.kind.name()))).or_null(),
    text("x_Partition", |row| of_owner(row, |owner| &owner.partition)).or_null(),
    text("x_Pod", |row| of_owner(row, |owner| &owner.pod)).or_null(),
    text("x_PodUid", |row| of_owner(row, |owner| &owner.pod_uid)).or_null(),
    text("x_Posting", |row| known(if row.charge.posting == Posting::First { "first" } else { "correction" })),
    text("x_Step", |row| of_owner(row, |owner| &owner.step)).or_null(),
    text("x_Unit", |row| of_owner(row, |owner| &owner.unit)).or_null(),
    amount("x_UnpricedGpuSeconds", |row| gpu_seconds(row, row.charge.figures.unpriced_ns)),
    text("x_User", |row| of_owner(row, |owner| &owner.user)).or_null(),
];
