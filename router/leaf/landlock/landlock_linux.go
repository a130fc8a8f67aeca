package landlock

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"
)

// The numbers of the system calls are the same on all architectures.
const (
	sysCreateRuleset = 444
	sysAddRule       = 445
	sysRestrictSelf  = 446
)

// What the calls take (linux/landlock.h, linux/prctl.h, fcntl.h).
const (
	createVersion   = 1 // a flag: which version of Landlock the kernel has
	ruleBeneath     = 1 // a kind of rule: what is allowed to what lies below a folder
	setNoNewPrivs   = 38
	openPath        = 0x200000
	versionRefer    = 2
	versionTruncate = 3
)

// Rights to what lies below a folder.
const (
	execute = 1 << iota
	writeFile
	_ // to read a file
	_ // to list a folder
	removeDir
	removeFile
	makeChar
	makeDir
	makeReg
	makeSock
	makeFifo
	makeBlock
	makeSym
	refer
	truncate
)

// rightsOf returns the rights that a version of Landlock can take: to run programs and all to change something.
func rightsOf(version int) uint64 {
	rights := uint64(execute | writeFile | removeDir | removeFile | makeChar | makeDir | makeReg | makeSock | makeFifo |
		makeBlock | makeSym)
	if version >= versionRefer {
		rights |= refer
	}
	if version >= versionTruncate {
		rights |= truncate
	}
	return rights
}

// kept are the rights below a folder that may be written: to make, write, rename and remove files in it.
const kept = writeFile | removeFile | makeReg | truncate

// A rule is what is allowed below a folder (struct landlock_path_beneath_attr, whose padding the kernel does not read).
type rule struct {
	allowed uint64
	folder  int32
}

// Confine takes from all threads of the process, and from what they start, the right to run programs and to change the
// file system, but for files in folders, which have to exist. What is open stays open. The error says why nothing was
// taken: an old kernel, one that was booted without Landlock, or a program that is linked with C.
func Confine(folders []string) error {
	version, _, errno := syscall.Syscall(sysCreateRuleset, 0, 0, createVersion)
	switch errno {
	case 0:
	case syscall.ENOSYS, syscall.EOPNOTSUPP: // not built in, not enabled at boot
		return errors.New("this kernel has no Landlock")
	default:
		return fmt.Errorf("landlock: %w", errno)
	}
	taken := rightsOf(int(version))
	set, _, errno := syscall.Syscall(sysCreateRuleset, uintptr(unsafe.Pointer(&taken)), unsafe.Sizeof(taken), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: rules: %w", errno)
	}
	defer syscall.Close(int(set))
	for _, folder := range folders {
		if err := allow(set, folder, taken&kept); err != nil {
			return err
		}
	}
	// A process without rights may bind itself only where no program that it starts can gain some.
	_, _, errno = syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0)
	if errno == 0 {
		_, _, errno = syscall.AllThreadsSyscall(sysRestrictSelf, set, 0, 0)
	}
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("this program is linked with C: build it with CGO_ENABLED=0")
	}
	return fmt.Errorf("landlock: %w", errno)
}

// allow adds to a set of rules what is allowed below a folder.
func allow(set uintptr, folder string, allowed uint64) error {
	fd, err := syscall.Open(folder, openPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	defer syscall.Close(fd)
	r := rule{allowed, int32(fd)}
	_, _, errno := syscall.Syscall6(sysAddRule, set, ruleBeneath, uintptr(unsafe.Pointer(&r)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %s: %w", folder, errno)
	}
	return nil
}
