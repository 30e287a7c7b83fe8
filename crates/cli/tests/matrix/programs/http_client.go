// http_client URL: fetches it with keep-alive and without, ten at a time, and prints how often and every hash it had.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

func main() {
	kept, closed := &http.Client{}, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	hashes, count := map[string]bool{}, 0
	var lock sync.Mutex
	for round := 0; round < 6; round++ {
		var group sync.WaitGroup
		for n := 0; n < 10; n++ {
			client := kept
			if n%2 == 1 {
				client = closed
			}
			group.Add(1)
			go func() {
				defer group.Done()
				answer, err := client.Get(os.Args[1])
				if err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				hash := sha256.New()
				_, err = io.Copy(hash, answer.Body)
				answer.Body.Close()
				if err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				lock.Lock()
				hashes[fmt.Sprintf("%x", hash.Sum(nil))] = true
				count++
				lock.Unlock()
			}()
		}
		group.Wait()
	}
	fmt.Print(count)
	for hash := range hashes {
		fmt.Print(" ", hash)
	}
	fmt.Println()
}
