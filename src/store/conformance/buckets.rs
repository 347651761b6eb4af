//! Stored buckets, and what a write into one sees of their end.

use super::*;

impl<S: MetadataStore> Bench<S> {
    fn create_bucket(&self, text: &str, owner: &str) -> Result<BucketCreated, Refusal> {
        let bucket = BucketName::parse(text).unwrap();
        self.step(CreateBucket { bucket, owner: owner.into(), region: "eu-west-1".into(), buckets_max: 3 })
    }

    fn delete_bucket(&self, text: &str) -> Result<BucketDeleted, Refusal> {
        self.step(DeleteBucket { bucket: BucketName::parse(text).unwrap() })
    }

    fn buckets(&self, unless: Option<u64>) -> Option<Buckets> {
        match self.query(Query::Buckets { unless }) {
            Answer::Buckets(buckets) => buckets,
            other => panic!("{other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        self.buckets(None).unwrap().rows.into_iter().map(|row| row.name.as_str().to_owned()).collect()
    }

    fn begin_stored(&self, text: &str) -> Result<Begun, Refusal> {
        self.step(BeginWrite { in_stored: true, ..self.begin_write(text, 10) })
    }
}

pub(super) fn buckets_come_and_go<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(bench.buckets(None), Some(Buckets { generation: 0, rows: vec![] }));
    assert_eq!(bench.buckets(Some(0)), None);
    let made = bench.create_bucket("one", "ann").unwrap();
    let row =
        BucketRow { name: bucket_named("one"), owner: "ann".into(), region: "eu-west-1".into(), created: bench.now() };
    assert_eq!(made, BucketCreated { row: row.clone(), new: true, generation: 1 });
    bench.advance(5);
    let again = BucketCreated { row: row.clone(), new: false, generation: 1 };
    assert_eq!(bench.create_bucket("one", "ann"), Ok(again.clone()), "asked again, nothing changes");
    assert_eq!(bench.create_bucket("one", "bob"), Ok(again), "nor for somebody else, who learns whose it is");
    assert_eq!(bench.create_bucket("a-two", "bob").unwrap().generation, 2);
    assert_eq!(bench.names(), ["a-two", "one"]);
    assert_eq!(bench.buckets(Some(2)), None);
    assert_eq!(bench.delete_bucket("one"), Ok(BucketDeleted { generation: 3 }));
    assert_eq!(bench.delete_bucket("one"), Err(Refusal::NoSuchBucket));
    assert_eq!(bench.buckets(Some(2)).map(|buckets| (buckets.generation, buckets.rows.len())), Some((3, 1)));
    let made = bench.create_bucket("one", "bob").unwrap();
    assert_eq!((made.row.owner.as_str(), made.row.created, made.generation), ("bob", bench.now(), 4));
}

fn bucket_named(text: &str) -> BucketName {
    BucketName::parse(text).unwrap()
}

pub(super) fn users_own_so_many<S: MetadataStore>(bench: &Bench<S>) {
    for i in 0..3 {
        assert!(bench.create_bucket(&format!("b-{i}"), "ann").unwrap().new);
    }
    assert_eq!(bench.create_bucket("b-3", "ann"), Err(Refusal::TooManyBuckets));
    assert!(!bench.create_bucket("b-2", "ann").unwrap().new, "one that is there already is no more");
    assert!(bench.create_bucket("b-3", "bob").unwrap().new);
    bench.delete_bucket("b-0").unwrap();
    assert!(bench.create_bucket("b-0", "ann").unwrap().new);
}

pub(super) fn a_bucket_with_something_in_it_stays<S: MetadataStore>(bench: &Bench<S>) {
    bench.create_bucket(BUCKET, "ann").unwrap();
    bench.put("k", 10);
    assert_eq!(bench.delete_bucket(BUCKET), Err(Refusal::BucketNotEmpty));
    bench.delete("k");
    let create = CreateUpload { in_stored: true, ..bench.create_upload("parts") };
    let upload = bench.step(create).unwrap();
    assert_eq!(bench.delete_bucket(BUCKET), Err(Refusal::BucketNotEmpty));
    let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
    bench.step(AbortUpload { bucket, key, upload: upload.upload }).unwrap();
    bench.delete_bucket(BUCKET).expect("what waits for its deletion is not in it any more");
    let create = CreateUpload { in_stored: true, ..bench.create_upload("late") };
    assert_eq!(bench.step(create), Err(Refusal::NoSuchBucket));
}

/// I4, I1: nobody is told of a write into a bucket that is gone, and no write comes to be in the next one of its name.
pub(super) fn writes_see_the_end_of_their_bucket<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(bench.begin_stored("k"), Err(Refusal::NoSuchBucket));
    bench.create_bucket(BUCKET, "ann").unwrap();
    let begun = bench.begin_stored("k").unwrap();
    let other = bench.begin_stored("other").unwrap();
    let conditional = bench.begin_stored("new").unwrap();
    bench.delete_bucket(BUCKET).expect("a write under way is not in it yet");
    assert_eq!(bench.begin_stored("k"), Err(Refusal::NoSuchBucket));
    assert_eq!(bench.commit("k", &begun), Err(Refusal::NoSuchBucket));
    assert_eq!(bench.state(&begun.blob), Some(BlobState::Doomed));
    bench.create_bucket(BUCKET, "bob").unwrap();
    assert_eq!(bench.commit("other", &other), Err(Refusal::NoSuchBucket), "it was begun in the former one");
    let condition = WriteCondition { must_not_exist: true, ..WriteCondition::default() };
    let commit = CommitWrite { condition, ..bench.commit_write("new", &conditional) };
    assert_eq!(bench.step(commit), Err(Refusal::NoSuchBucket));
    let instead_of = Some(gone(&bench.begin_stored("again").unwrap().blob));
    bench.delete_bucket(BUCKET).unwrap();
    bench.create_bucket(BUCKET, "bob").unwrap();
    let replaced =
        bench.step(BeginWrite { instead_of, in_stored: true, ..bench.begin_write("again", 10) }).expect("it is ours");
    assert_eq!(bench.commit("again", &replaced), Err(Refusal::NoSuchBucket), "a replacement shares its fate");
    let begun = bench.begin_stored("k").unwrap();
    bench.commit("k", &begun).expect("the new bucket takes it");
    assert!(bench.lookup("other").is_none() && bench.lookup("k").is_some());
}
