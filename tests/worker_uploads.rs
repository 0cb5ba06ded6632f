//! Images on their way to a worker, and flashes, under clients that retry, break off, stall and send nonsense.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::{Worker, gzip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes that no packer makes smaller, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // splitmix64, by its published constants.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    std::iter::repeat_with(|| next().to_le_bytes()).flatten().take(length).collect()
}

/// The digests of what was flashed since the device was opened.
async fn flashed(worker: &Worker) -> Vec<String> {
    let told = worker.diagnostics().await;
    let events = told["lastEvents"].as_array().unwrap().clone();
    let flashed = events.iter().filter(|event| event["event"] == "flashed");
    flashed.map(|event| event["digest"].as_str().unwrap().to_owned()).collect()
}

const MIB: usize = 1 << 20;

/// The head of a request for a chunk of so many bytes.
fn chunk_head(index: usize, total: usize, length: usize) -> String {
    format!(
        "POST /dut/sendImage HTTP/1.1\r\nhost: worker\r\nconnection: close\r\nx-chunk-index: {index}\r\n\
         x-total-chunks: {total}\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_at_the_same_time_are_one_flash_and_a_later_one_flashes_again_without_an_upload() {
    let worker = Worker::start("pc-seabios").await;
    worker.send_image(&gzip(SELFTEST_IMAGE)).await;
    let retry = || worker.post("/dut/flashImage", "");
    let answers = tokio::join!(retry(), retry(), retry(), retry(), retry());
    for answer in [answers.0, answers.1, answers.2, answers.3, answers.4] {
        assert_eq!(answer, (200, "{\"timeoutTries\":60}".to_owned()));
    }
    assert_eq!(worker.get("/dut/flashState").await.1, "DONE");
    assert_eq!(flashed(&worker).await.len(), 1);
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.get("/dut/flashState").await.1, "DONE");
    let all = flashed(&worker).await;
    assert!(all.len() == 2 && all[0] == all[1], "{all:?}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_upload_during_a_flash_does_not_harm_it() {
    let worker = Worker::start("pc-seabios").await;
    let (first, second) = (gzip(&noise(1, 64 * MIB)), gzip(SELFTEST_IMAGE));
    worker.send_image(&first).await;
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.flash_ended().await, "DONE", "{}", worker.stderr());
    let digest = flashed(&worker).await.remove(0);
    // As if it were new: nothing of it is known any more.
    assert_eq!(worker.post("/teardown", "").await.1, "OK");
    std::fs::remove_dir_all(worker.dir.path().join("cache/images")).unwrap();
    worker.send_image(&first).await;
    let meanwhile = async {
        while worker.get("/dut/flashState").await.1 != "PENDING" {
            assert_eq!(
                flashed(&worker).await,
                Vec::<String>::new(),
                "it ended before anything else could begin"
            );
        }
        worker.send_image(&second).await;
    };
    tokio::join!(worker.post("/dut/flashImage", ""), meanwhile);
    assert_eq!(worker.flash_ended().await, "DONE", "{}", worker.stderr());
    assert_eq!(flashed(&worker).await, [digest]);
    worker.flash_selftest().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_costs_only_its_chunk() {
    let worker =
        Worker::start_with(tempfile::tempdir().unwrap(), &["pc-seabios", "--chunk-size", "1"], &[]).await;
    let image = gzip(&noise(2, 5 * MIB / 2));
    let chunks: Vec<&[u8]> = image.chunks(MIB).collect();
    assert_eq!(chunks.len(), 3);
    assert_eq!(worker.send_chunk(0, 3, chunks[0]).await.0, 200);
    // Half of it, and then the line is cut.
    let mut connection = worker.connect().await;
    connection.write_all(chunk_head(1, 3, MIB).as_bytes()).await.unwrap();
    connection.write_all(&chunks[1][..MIB / 2]).await.unwrap();
    drop(connection);
    assert_eq!(worker.send_chunk(2, 3, chunks[2]).await.0, 200);
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.flash_ended().await, "ERROR");
    let told = worker.diagnostics().await;
    assert!(told["flashError"].as_str().unwrap().contains("the first is 1"), "{told}");
    // Sent again, while another attempt at the same chunk hangs; and once more, which changes nothing.
    let mut hanging = worker.connect().await;
    hanging.write_all(chunk_head(1, 3, MIB).as_bytes()).await.unwrap();
    hanging.write_all(b"something else").await.unwrap();
    for _ in 0..2 {
        assert_eq!(worker.send_chunk(1, 3, chunks[1]).await, (200, "CHUNK_OK".to_owned()));
    }
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.flash_ended().await, "DONE", "{}", worker.stderr());
    drop(hanging);
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_chunk_in_the_middle_is_no_image() {
    let worker =
        Worker::start_with(tempfile::tempdir().unwrap(), &["pc-seabios", "--chunk-size", "1"], &[]).await;
    let image = gzip(&noise(3, 5 * MIB / 2));
    for (index, chunk) in image.chunks(MIB / 2).take(3).enumerate() {
        assert_eq!(worker.send_chunk(index, 3, chunk).await.0, 200);
    }
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.flash_ended().await, "ERROR");
    let told = worker.diagnostics().await;
    assert!(told["flashError"].as_str().unwrap().contains("is not the last"), "{told}");
    let (status, text) = worker.send_chunk(0, 1, &image[..MIB + 1]).await;
    assert!(status == 413 && text.contains("at most"), "{text}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stalls_ends_by_the_idle_limit_and_one_that_goes_on_does_not() {
    let limit = ["pc-seabios", "--idle-limit", "1s"];
    let worker = Worker::start_with(tempfile::tempdir().unwrap(), &limit, &[]).await;
    let heard = worker.say(format!("{}half", chunk_head(0, 1, 8)).as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("nothing came for 1s"), "{heard}");
    let mut slow = worker.connect().await;
    slow.write_all(chunk_head(0, 1, 4).as_bytes()).await.unwrap();
    for byte in b"slow" {
        // sleep: being slow is what is tested; four times this is longer than the limit.
        tokio::time::sleep(Duration::from_millis(400)).await;
        slow.write_all(&[*byte]).await.unwrap();
    }
    let mut heard = String::new();
    slow.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("CHUNK_OK"), "{heard}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_take_no_more_of_the_disk_than_they_may() {
    let limit = ["pc-seabios", "--chunk-size", "1", "--upload-limit", "2MiB"];
    let worker = Worker::start_with(tempfile::tempdir().unwrap(), &limit, &[]).await;
    let noise = noise(4, 3 * MIB);
    let (status, text) = worker.post("/dut/sendImage", noise.clone()).await;
    assert!(status == 413 && text.contains("2097152 bytes of this host's disk"), "{text}");
    for (index, chunk) in noise.chunks(MIB).enumerate() {
        let (status, text) = worker.send_chunk(index, 3, chunk).await;
        assert_eq!(status, if index < 2 { 200 } else { 413 }, "{text}");
    }
    let uploads = || {
        let run = std::fs::read_dir(worker.dir.path().join("runs")).unwrap().flatten();
        let folders = run.map(|run| run.path().join("scratch/uploads")).filter(|folder| folder.is_dir());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
        files.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    assert_eq!(uploads(), 2 << 20);
    // A new upload has all of the room again, and a teardown leaves nothing.
    worker.flash_selftest().await;
    assert_eq!(worker.post("/teardown", "").await.1, "OK");
    assert_eq!(uploads(), 0);
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teardown_during_a_flash_frees_the_worker_and_the_next_flash_is_its_own() {
    let worker = Worker::start("pc-seabios").await;
    assert_eq!(worker.get("/start").await.1, "OK");
    worker.send_image(&gzip(&noise(5, 64 * MIB))).await;
    let teardown = async {
        while worker.get("/dut/flashState").await.1 != "PENDING" {}
        assert_eq!(worker.post("/teardown", "").await.1, "OK");
        assert_eq!(worker.get("/dut/flashState").await.1, "IDLE");
        assert_eq!(worker.get("/start").await.1, "OK");
        worker.flash_selftest().await;
    };
    tokio::join!(worker.post("/dut/flashImage", ""), teardown);
    assert_eq!(worker.get("/dut/flashState").await.1, "DONE");
    assert_eq!(flashed(&worker).await.len(), 1);
    worker.close_and_expect_nothing_left().await;
}
