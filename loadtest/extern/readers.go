package extern

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Pflogsumm returns the summary that pflogsumm makes of a log of Postfix.
func Pflogsumm(t testing.TB, file string) string {
	t.Helper()
	out, err := Find(t, "pflogsumm").Command(t.Context(), file).Output()
	if err != nil {
		t.Fatalf("pflogsumm: %v", err)
	}
	return string(out)
}

// Fail2ban returns the address of each line of a log that fail2ban's filter for Postfix counts against a client, with
// the filter and the settings that Debian ships. mode is one of the filter's.
func Fail2ban(t testing.TB, file, mode string) []string {
	t.Helper()
	script := Find(t, "fail2ban-regex")
	config := "/etc/fail2ban"
	if root := cacheRoot(); root != "" && strings.HasPrefix(script.Path(), root+"/") {
		config = filepath.Join(root, "etc", "fail2ban")
	}
	cmd := Python(t, "fail2ban.server").Command(t.Context(), script.Path(), "-c", config, "-o", "ip", file,
		filepath.Join(config, "filter.d", "postfix.conf")+"[mode="+mode+"]")
	out, err := cmd.Output() // it ends with 1 where no line counts
	if err != nil && len(out) > 0 || cmd.ProcessState == nil {
		t.Fatalf("fail2ban-regex: %v: %s", err, out)
	}
	return strings.Fields(string(out))
}

// StartPostfixExporter runs prometheus-postfix-exporter, which reads what is added to a log of Postfix, until the test
// ends. It returns the address of its metrics.
func StartPostfixExporter(t testing.TB, file string) (addr string) {
	t.Helper()
	exporter := Find(t, "prometheus-postfix-exporter")
	return serve(t, func(addr string) *exec.Cmd {
		return exporter.Command(context.Background(), "--web.listen-address="+addr, "--postfix.logfile_path="+file,
			"--postfix.showq_path="+filepath.Join(t.TempDir(), "none"))
	})
}

// rsyslogConfig takes messages of RFC 5424 by a unix socket and by UDP, and writes them to a file in the form of a mail
// log, with the settings of docs/operate.md. It takes TCP so that it is seen to be ready.
const rsyslogConfig = `
global(workDirectory="DIR")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imtcp")
input(type="imuxsock" Socket="DIR/log" UseSpecialParser="off" IgnoreTimestamp="off" RateLimit.Interval="0")
input(type="imudp" address="HOST" port="PORT")
input(type="imtcp" address="HOST" port="PORT")
template(name="mail" type="string"
  string="%TIMESTAMP:::date-rfc3339% %hostname% %app-name%[%procid%]: %msg%\n")
action(type="omfile" file="DIR/mail.log" template="mail")
`

// StartRsyslog runs rsyslog until the test ends. It returns its socket, its address for UDP and the file it writes.
func StartRsyslog(t testing.TB) (socket, addr, file string) {
	t.Helper()
	rsyslogd, dir := Find(t, "rsyslogd"), t.TempDir()
	modules, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(rsyslogd.Path())), "lib", "*", "rsyslog"))
	addr = serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		config := filepath.Join(dir, "rsyslog.conf")
		writeFile(t, config, strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port).Replace(rsyslogConfig))
		return rsyslogd.Command(context.Background(), "-n", "-f", config, "-i", filepath.Join(dir, "pid"),
			"-M", strings.Join(modules, string(os.PathListSeparator)))
	})
	return filepath.Join(dir, "log"), addr, filepath.Join(dir, "mail.log")
}
