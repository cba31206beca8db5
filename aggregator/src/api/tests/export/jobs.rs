//! Jobs without GPUs in exports: of hours of CPUs and of memory, and of no GPU.

use super::*;
use crate::store::jobs;

/// Four CPUs for a quarter of an hour.
const HOUR_CPU_NS: i64 = 3_600_000_000_000;

/// A quarter of an hour of four CPUs and 8 GB, which cost 0.02 and 0.006, and 0.000000002 less once it was corrected.
fn post(db: &Connection) {
    let db = db.begin().unwrap();
    for table in ["slot", "slot_state", "entry"] {
        server::make_room(&db, table, [0].into_iter()).unwrap();
    }
    let tenure = jobs::tenure(&db, "c", "cpu").unwrap();
    db.execute_batch(
        "INSERT INTO owner VALUES (1, 3, '', '', '', '', '', '7', '', '', 'ada', 'physics', 'cpu')",
    )
    .unwrap();
    db.insert_all("slot_state", "", &[[0, tenure, 0, 0, 0, 0, 1].map(Some)]).unwrap();
    let memory = 900 * (8_i64 << 30);
    let cpu = [0, tenure, 0, 1, 6, HOUR_CPU_NS, 0, 0, 0, 0, 20_000_000, 0];
    let rows = [cpu, [0, tenure, 0, 1, 7, 0, 0, memory, 0, 0, 6_000_000, 0]];
    db.insert_all("slot", "", &rows.map(|row| row.map(Some))).unwrap();
    closing::post(&db, &[(0, tenure)], 1).unwrap();
    db.execute("UPDATE slot SET cost_nanos = cost_nanos - 2 WHERE kind = 6", []).unwrap();
    closing::post(&db, &[(0, tenure)], 2).unwrap();
    for (id, at_ns) in [(1, 1), (2, MONTH_NS)] {
        closing::put_checkpoint(&db, &Checkpoint { id, at_ns, ..Checkpoint::default() }).unwrap();
    }
    set_mark(&db, Mark::ClosedUntil, SLOT_NS).unwrap();
    db.commit().unwrap();
}

#[tokio::test]
async fn a_job_without_gpus_is_a_row_of_cpu_hours_and_one_of_memory() {
    let site = site_of(|store, _| post(&store.writer().unwrap()));
    for version in ["1.2", "1.3"] {
        let (names, csv) = site.exported(&format!("version={version}&{WINDOW}")).await;
        let columns =
            ["x_Kind", "ChargeClass", "BilledCost", "ConsumedQuantity", "ConsumedUnit", "PricingUnit"];
        let shown: Vec<_> = csv.iter().map(|row| columns.map(|name| row[name].as_str())).collect();
        let cpu = ["cpu", "", "0.020000000", "1.000000000", "CPU-Hours", "CPU-Hours"];
        let memory = ["memory", "", "0.006000000", "2.000000000", "GiB-Hours", "GiB-Hours"];
        let less = ["cpu", "Correction", "-0.000000002", "0.000000000", "CPU-Hours", "CPU-Hours"];
        assert_eq!(shown, [cpu, memory, less], "{version}");
        for row in &csv {
            let names =
                ["ResourceId", "ResourceType", "ServiceCategory", "ServiceName", "x_Job", "x_Account"];
            let expected = ["slurm:c/cpu", "Slurm Partition", "Compute", "CPU and Memory", "7", "physics"];
            assert_eq!(names.map(|name| row[name].as_str()), expected);
            let of_gpus = ["x_GpuSeconds", "x_GpuUuid", "x_GpuModel", "x_Node"];
            assert_eq!(of_gpus.map(|name| row[name].as_str()), ["0.000000000", "", "", ""]);
            assert!(row["Tags"].contains("\"tonnage/user\":\"ada\""), "{}", row["Tags"]);
        }
        let parquet = site.exported(&format!("version={version}&format=parquet&{WINDOW}")).await;
        assert_eq!(parquet, (names, csv));
    }
}
