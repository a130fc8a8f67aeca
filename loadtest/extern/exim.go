package extern

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// eximConfig takes mail for every address from everyone, offers STARTTLS with a certificate that Exim makes for
// itself, and delivers at once into one Maildir, a file per recipient. The lines before the message name its
// envelope.
const eximConfig = `
primary_hostname = exim.test
spool_directory = DIR/spool
log_file_path = DIR/%slog
pid_file_path = DIR/pid
daemon_smtp_ports = PORT
local_interfaces = HOST
host_lookup =
rfc1413_hosts =
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
tls_advertise_hosts = *
deliver_drop_privilege
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
ROUTER
begin transports
next:
  driver = smtp
  hosts_try_dane =
  final_timeout = FINAL
file:
  driver = appendfile
  directory = DIR/mail
  maildir_format
  use_crlf
  message_prefix = "${return_path}\n${local_part}@${domain}\n"
  message_suffix =
begin retry
* * F,1h,1s
`

// eximDelivers and eximSends are the routers of an Exim that delivers, and of one that sends all mail on.
const (
	eximDelivers = `any:
  driver = accept
  transport = file`
	eximSends = `any:
  driver = manualroute
  route_list = * "<+ NEXTHOSTS"
  self = send
  transport = next`
)

// StartExim runs an Exim that accepts mail for every address, with STARTTLS under a certificate it signed itself,
// until the test ends. It returns its address and a function that reads what has been delivered so far, oldest first
// by the second, one Message per recipient. Exim delivers after it has answered: a reader waits until the message is
// there. Content lacks the Received field that Exim put on top.
func StartExim(t testing.TB) (addr string, messages func() []Message) {
	t.Helper()
	return startExim(t, strings.NewReplacer("ROUTER", eximDelivers, "FINAL", "10m"))
}

// StartEximRelay runs such an Exim that sends all mail on to next, as a client that uses what is offered: STARTTLS,
// PIPELINING, BDAT.
func StartEximRelay(t testing.TB, next string) (addr string) {
	t.Helper()
	return startEximRelay(t, "10m", []string{next})
}

// StartEximQueue runs such an Exim that sends all mail on to the first address of next where it can, else to the
// second if there is one, and leaves a host that does not answer the end of a message within a second. What it keeps
// in its queue it tries again each second.
func StartEximQueue(t testing.TB, next ...string) (addr string) {
	t.Helper()
	return startEximRelay(t, "1s", next, "-q1s")
}

// startEximRelay sends all mail on to the first of several addresses that takes it. It waits for the answer to the
// end of a message for as long as final says.
func startEximRelay(t testing.TB, final string, next []string, args ...string) (addr string) {
	t.Helper()
	router := strings.ReplaceAll(eximSends, "NEXTHOSTS", strings.Join(next, " + "))
	addr, _ = startExim(t, strings.NewReplacer("ROUTER", router, "FINAL", final), args...)
	return addr
}

func startExim(t testing.TB, delivery *strings.Replacer, args ...string) (addr string, messages func() []Message) {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"spool", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "exim.conf")
	addr = serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		fill := strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port)
		writeFile(t, config, fill.Replace(delivery.Replace(eximConfig)))
		return sandbox(t, "Debian-exim", "exim4", append([]string{"-C", config, "-bdf"}, args...)...)
	})
	return addr, func() []Message {
		var got []Message
		for _, file := range readFolder(t, filepath.Join(dir, "mail", "new")) {
			reverse, rest, _ := strings.Cut(file, "\n")
			forward, content, ok := strings.Cut(rest, "\n")
			if !ok {
				t.Fatalf("exim wrote no envelope: %.100q", file)
			}
			got = append(got, Message{
				Reverse: strings.TrimSuffix(reverse, "\r"),
				Forward: []string{strings.TrimSuffix(forward, "\r")},
				Content: []byte(withoutField(content)),
			})
		}
		return got
	}
}
