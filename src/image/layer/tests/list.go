// Lists archives as Go's archive/tar reads them, which engines read with. The output is that of list.py.
package main

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"os"
)

func text(name string) string {
	if name == "" {
		return "-"
	}
	return fmt.Sprintf("%x", name)
}

var kinds = map[byte]string{'0': "-", 0: "-", '7': "-", '1': "h", '2': "l", '3': "c", '4': "b", '5': "d", '6': "p"}

func list(path string, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewReader(file)
	for {
		head, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if head.Typeflag == 'g' {
			continue
		}
		kind, link, sum := kinds[head.Typeflag], "-", 0
		var size, major, minor int64
		switch kind {
		case "":
			kind = "?"
		case "-":
			size = head.Size
			data, err := io.ReadAll(archive)
			if err != nil {
				return err
			}
			for _, digit := range data {
				sum += int(digit)
			}
		case "l", "h":
			link = text(head.Linkname)
		case "c", "b":
			major, minor = head.Devmajor, head.Devminor
		}
		fmt.Fprintln(out, kind, size, head.Mode&07777, head.Uid, head.Gid, head.ModTime.Unix(), major, minor,
			text(head.Name), link, sum)
	}
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, path := range os.Args[1:] {
		fmt.Fprintln(out, "=", path)
		if err := list(path, out); err != nil {
			fmt.Fprintln(out, "!", err)
		} else {
			fmt.Fprintln(out, ".")
		}
	}
}
