//! The same images and commands in docker and in a sandbox: what comes out is the same, but for what [`as_ours`] lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use belljar::{Capabilities, Command, Error, IdMap, Image, Rootfs, Sandbox, Stdio, Store};

use crate::fixtures::docker;
use crate::harness::{real, temp_dir};
use crate::{docker, for_root, images};

/// Tags of the layout, each in an archive of its own, and what docker itself has saved.
const IMAGES: [&str; 13] = [
    "app",
    "gnu",
    "hand",
    "hybrid",
    "no-program",
    "nonroot",
    "third",
    "through",
    "user-group",
    "user-id-group",
    "user-ids",
    "user-unknown",
    "workingdir-missing",
];

/// Who the program is, where, what it may do there, and a word on each stream.
const WHO: &str = "id -u; id -g; pwd; umask; touch $HOME/new 2>/dev/null && echo at home; echo to stderr >&2; exit 7";

const SIGNAL: &str = "sh -c 'kill -9 $$'; echo $?; kill -9 $$; echo still here";

/// Everything in the root but what is mounted there: type, mode, owner; of files their size, time and number of names.
const TREE: &str = "cd /; find . -xdev \\( -path ./proc -o -path ./dev -o -path ./sys \\) -prune -o \
    -exec stat -c '%n %F %a %u:%g' {} + | sort; \
    find . -xdev -type f -exec stat -c '%n %s %Y %h' {} + | sort; find . -xdev -type l -exec stat -c %N {} + | sort";

/// Everything that is asked, with the answers as files: `answers/IMAGE.QUESTION`, and `.code`.
const ASK: &str = r#"
mkdir answers
for tag in $IMAGES; do
    image=$(docker load -q -i "images/$tag" | sed -n 's,^Loaded image: ,,p')
    ask() {
        question=$1
        shift
        # The daemon now and then loses what a program writes that ends at once: nothing is asked for again.
        for turn in 1 2 3; do
            code=0
            rm -f container
            docker run --cidfile container --network none "$@" </dev/null >/dev/null 2>>errors || code=$?
            docker logs "$(cat container)" >"answers/$tag.$question" 2>/dev/null || true
            if [ "$code" != 0 ] || [ -s "answers/$tag.$question" ]; then break; fi
        done
        echo "$code" >"answers/$tag.$question.code"
    }
    ask args "$image" -c 'echo arguments'
    ask default "$image"
    ask env --entrypoint /bin/env "$image"
    ask groups --entrypoint /bin/id "$image" -G
    ask signal --entrypoint /bin/sh "$image" -c "$SIGNAL"
    ask tree --user 0 --workdir / --entrypoint /bin/sh "$image" -c "$TREE"
    ask who --entrypoint /bin/sh "$image" -c "$WHO"
done
cat errors >&2
"#;

/// Standard output, and the exit code: by question and image.
type Answers = BTreeMap<String, (String, i32)>;

fn ask_docker(root: &Path, images: &Path) -> Answers {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("images")).unwrap();
    for tag in IMAGES {
        let path = dir.path().join("images").join(tag);
        if tag == "hybrid" {
            fs::copy(images.join("docker-hybrid.tar"), path).unwrap();
            continue;
        }
        let from = format!("oci:{}:{tag}", images.join("layout").display());
        let to = format!("docker-archive:{}:t/image", path.display());
        let mut skopeo = std::process::Command::new("skopeo");
        assert!(skopeo.args(["--insecure-policy", "copy", "-q", &from, &to]).status().unwrap().success(), "{tag}");
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let words = [("IMAGES", IMAGES.join(" ")), ("WHO", WHO.into()), ("SIGNAL", SIGNAL.into()), ("TREE", TREE.into())];
    let words: String = words.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect();
    let output = docker(root, dir.path(), &format!("{words}{ASK}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What is told of a failure.
    println!("{}", String::from_utf8_lossy(&output.stderr));
    let mut answers = Answers::new();
    for entry in fs::read_dir(dir.path().join("answers")).unwrap() {
        let path = entry.unwrap().path();
        let Some(question) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".code") else { continue };
        let text = String::from_utf8_lossy(&fs::read(path.with_extension("")).unwrap()).into_owned();
        answers.insert(question.to_owned(), (text, fs::read_to_string(&path).unwrap().trim().parse().unwrap()));
    }
    answers
}

fn ask_us(images: &Path) -> Answers {
    let dir = temp_dir();
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    let mut answers = Answers::new();
    for tag in IMAGES {
        let image = match tag {
            "hybrid" => Image::open(images.join("docker-hybrid.tar")),
            _ => Image::options().reference(tag).open(images.join("layout")),
        };
        let image = store.unpack(&image.unwrap()).unwrap();
        let sandbox = Sandbox::from_image(&image).rootfs(Rootfs::image(&image).ephemeral());
        let command = |program: &str, args: &[&str]| {
            let mut command = sandbox.command(program);
            command.args(args);
            Ok(command)
        };
        for (question, command) in [
            ("args", sandbox.entrypoint(["-c", "echo arguments"])),
            ("default", sandbox.default_command()),
            ("env", command("/bin/env", &[])),
            ("groups", command("/bin/id", &["-G"])),
            ("signal", command("/bin/sh", &["-c", SIGNAL])),
            ("tree", Ok(tree(&image))),
            ("who", command("/bin/sh", &["-c", WHO])),
        ] {
            answers.insert(format!("{tag}.{question}"), answer(command));
        }
    }
    answers
}

/// With every owner, and with the right to read everything, which docker's root has.
fn tree(image: &Image) -> Command {
    let all = IdMap::new(0, 0, u32::MAX);
    let sandbox = Sandbox::from_image(image).user(0, 0).uid_map(all).gid_map(all);
    let mut command = sandbox.capabilities(Capabilities::DAC_READ_SEARCH).command("/bin/sh");
    command.args(["-c", TREE]).current_dir("/");
    command
}

/// Docker tells by the codes 125 and 127 what is an error here.
fn answer(command: Result<Command, Error>) -> (String, i32) {
    match command.and_then(|mut command| command.stderr(Stdio::null()).output()) {
        Ok(output) => {
            let code = output.outcome.code().unwrap_or_else(|| 128 + output.outcome.signal().unwrap());
            (String::from_utf8_lossy(&output.stdout).into_owned(), code)
        }
        Err(error) if error.layer() == belljar::Layer::Exec => (String::new(), 127),
        Err(error) if error.layer() == belljar::Layer::Image => (String::new(), 125),
        Err(error) => (error.to_string(), -1),
    }
}

/// Docker's answer as it has to be ours, with the reason for each difference.
fn as_ours(question: &str, (text, code): &(String, i32)) -> (String, i32) {
    let (tag, question) = question.split_once('.').unwrap();
    let lines = text.lines();
    let text = match question {
        // The name of the host is uname(2)'s, and "/" can't be written to: a user without a home has /tmp.
        "env" => sorted(lines.filter(|line| !line.starts_with("HOSTNAME=")), |line| match line {
            "HOME=/" => "HOME=/tmp".into(),
            line => line.into(),
        }),
        // A group is not told again among the supplementary ones, which are not set.
        "default" => text.replace(" groups=65532(nonroot)", ""),
        // As above: there is a home to write to.
        "who" if tag == "user-id-group" => format!("{text}at home\n"),
        // Supplementary groups of the image's are not set.
        "groups" => {
            text.split(' ').next().map(|group| format!("{}\n", group.trim())).filter(|_| *code == 0).unwrap_or_default()
        }
        // The program is not process 1, which the kernel protects from its own signals.
        "signal" if *code == 0 => return ("137\n".into(), 137),
        "tree" => {
            // Nothing is told of a network by files that the image has not, and a sandbox has devices of its own.
            let made =
                ["./.dockerenv", "./etc/hosts", "./etc/hostname", "./etc/resolv.conf", "./etc/mtab", "'./etc/mtab'"];
            let devices = ["./data/null", "./data/disk"];
            let left_out = |line: &&str| !made.iter().chain(&devices).any(|path| line.split(' ').next() == Some(path));
            // A volume is a tmpfs, of which the image's directory tells nothing.
            let volumes = if tag == "app" { &["./srv directory ", "./var/cache/app directory "][..] } else { &[] };
            sorted(lines.filter(left_out), |line| match volumes.iter().find(|volume| line.starts_with(**volume)) {
                Some(volume) => format!("{volume}1777 0:0"),
                None => line.into(),
            })
        }
        _ => text.clone(),
    };
    (text, *code)
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>, change: impl Fn(&str) -> String) -> String {
    let mut lines: Vec<_> = lines.map(|line| change(line) + "\n").collect();
    lines.sort();
    lines.concat()
}

#[test]
fn docker_and_we_answer_alike() {
    for_root!();
    let (images, docker_root) = (images!(), docker!());
    if !images.join("docker-hybrid.tar").exists() {
        crate::skip!("there is no image docker-hybrid.tar: it is made in the root at BELLJAR_TEST_DOCKER");
    }
    let (theirs, mut ours) = (ask_docker(&docker_root, &images), ask_us(&images));
    for (question, (text, _)) in &mut ours {
        if question.ends_with(".env") || question.ends_with(".tree") {
            *text = sorted(text.lines(), str::to_owned);
        }
    }
    let different: Vec<_> = theirs
        .iter()
        .filter(|(question, theirs)| as_ours(question, theirs) != ours[*question])
        .map(|(question, theirs)| {
            format!("{question}: docker {:?}\nours {:?}\n", as_ours(question, theirs), ours[question])
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    // The controls: docker has run what it can, and has refused what it can't.
    assert_eq!((theirs.len(), ours.len()), (7 * IMAGES.len(), 7 * IMAGES.len()));
    let told = |question: &str| (theirs[question].0.as_str(), theirs[question].1);
    assert_eq!(told("app.default"), ("hello = world from app in /home/app\n", 0));
    assert_eq!(told("nonroot.who"), ("65532\n65532\n/home/nonroot\n0022\nat home\n", 7));
    assert_eq!(told("app.groups").0.trim(), "1000 50 2000");
    assert_eq!((told("user-unknown.who").1, told("no-program.default").1, told("third.args").1), (125, 125, 127));
    assert!(told("gnu.tree").0.contains("3000000:4000000") && told("third.tree").0.lines().count() > 500);
}
